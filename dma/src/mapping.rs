//! The token of one mapping, and the count of those that got lost.

use alloc::{boxed::Box, vec::Vec};
use core::{
    fmt, ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};

use dmabench_iova::IovaRange;
use dmabench_platform::Iova;

/// Memory that a device may reach, until [`Domain::unmap`](crate::Domain::unmap)
/// takes this value.
///
/// Neither `Copy` nor `Clone`, so it is unmapped once at most; it may be unmapped
/// on another thread. Dropping it unmaps nothing: a token cannot reach its
/// domain, so the device keeps its access, the addresses stay in use, and the
/// domain [counts](crate::DomainStats::leaked_mappings) the loss.
#[must_use = "a dropped mapping stays mapped for ever; give it to `Domain::unmap`"]
pub struct Mapping {
    /// `None` in passthrough domains, where no address was allocated.
    pub(crate) range: Option<IovaRange>,
    pub(crate) addr: Iova,
    pub(crate) len_bytes: u64,
    pub(crate) tag: &'static DomainTag,
}

impl Mapping {
    /// The address for the device: of the first byte of the buffer, or of the
    /// first segment of a list. In bytes.
    #[inline]
    pub fn addr(&self) -> Iova {
        self.addr
    }

    /// Length of the buffer, or the sum of a list's segments, in bytes.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The I/O pages the device can reach: the first address and the length,
    /// whole granules. `None` in passthrough.
    #[inline]
    pub fn mapped_range(&self) -> Option<(Iova, u64)> {
        self.range
            .as_ref()
            .map(|range| (range.iova(), range.len_bytes()))
    }

    /// What it holds, from under it.
    ///
    /// # Safety
    ///
    /// Nobody uses the mapping's own range afterwards: the mapping is forgotten.
    /// (If something unwinds before that, it is dropped, and counted as lost;
    /// dropping a range does nothing.)
    #[inline(always)]
    pub(crate) unsafe fn take_range(&self) -> Option<IovaRange> {
        // SAFETY: valid for reads, and nobody uses the original as its own.
        unsafe { ptr::read(&self.range) }
    }

    /// The [id](crate::Domain::id) of the domain it belongs to.
    #[inline]
    pub fn domain_id(&self) -> u64 {
        self.tag.id.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("domain", &self.domain_id())
            .field("addr", &self.addr)
            .field("len_bytes", &self.len_bytes)
            .finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.tag.leaked.fetch_add(1, Ordering::Relaxed);
    }
}

/// A box, if there is memory for it.
pub(crate) fn try_box<T>(value: T) -> Option<Box<T>> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).ok()?;
    one.push(value);
    let one: Box<[T]> = one.into_boxed_slice();
    debug_assert_eq!(one.len(), 1);
    // SAFETY: a slice of one `T` has the layout of a `T`, and the box owns it.
    Some(unsafe { Box::from_raw(Box::into_raw(one).cast::<T>()) })
}

/// Who a token belongs to. Tags are never freed, so a token that outlives its
/// domain still has one; a tag is used again for another domain only once every
/// token of the first one is gone.
pub(crate) struct DomainTag {
    /// Unique in the process.
    pub(crate) id: AtomicU64,
    pub(crate) leaked: AtomicU64,
    /// Values that know the tag and are no mappings: batches.
    held: AtomicU64,
    in_use: AtomicBool,
    next: AtomicPtr<DomainTag>,
}

static TAGS: AtomicPtr<DomainTag> = AtomicPtr::new(ptr::null_mut());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl DomainTag {
    /// A tag that no other living domain has; `None` if there is no memory for a
    /// new one.
    pub(crate) fn take() -> Option<&'static DomainTag> {
        let mut at = TAGS.load(Ordering::Acquire);
        // SAFETY: a pointer in the list came from `Box::leak`, was published
        // with release and is never freed.
        while let Some(tag) = unsafe { at.as_ref() } {
            let free =
                tag.in_use
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            if free.is_ok() {
                tag.leaked.store(0, Ordering::Relaxed);
                tag.id.store(Self::next_id(), Ordering::Relaxed);
                return Some(tag);
            }
            at = tag.next.load(Ordering::Relaxed);
        }
        let tag: &'static DomainTag = Box::leak(try_box(DomainTag {
            id: AtomicU64::new(Self::next_id()),
            leaked: AtomicU64::new(0),
            held: AtomicU64::new(0),
            in_use: AtomicBool::new(true),
            next: AtomicPtr::new(ptr::null_mut()),
        })?);
        let mut first = TAGS.load(Ordering::Relaxed);
        loop {
            tag.next.store(first, Ordering::Relaxed);
            match TAGS.compare_exchange_weak(
                first,
                ptr::from_ref(tag).cast_mut(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(tag),
                Err(now) => first = now,
            }
        }
    }

    fn next_id() -> u64 {
        NEXT_ID.fetch_add(1, Ordering::Relaxed)
    }

    /// Something that is no mapping knows the tag from now on. For the tag's
    /// living domain.
    pub(crate) fn hold(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// It is gone.
    pub(crate) fn let_go(&self) {
        self.held.fetch_sub(1, Ordering::Release);
    }

    /// For the next domain. Only once no mapping holds the tag; where something
    /// else does, nobody gets it again.
    pub(crate) fn give_back(&self) {
        // Acquire: what the last holder did with it lies before the next life.
        if self.held.load(Ordering::Acquire) == 0 {
            self.in_use.store(false, Ordering::Release);
        }
    }
}
