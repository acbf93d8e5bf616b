//! Which way unmaps go, and how that changes under running I/O.
//!
//! # Protocol
//!
//! The way is one byte. An unmap reads it **once**, inside its section, and goes
//! that way to the end: no later step looks again, so none can skip the sync
//! because unmaps are lazy now and free the addresses because they were strict a
//! moment ago. (Linux had that race in 2021. An unmap that must wait for room in
//! the queue has not touched anything yet; it begins again and reads again.)
//!
//! *Strict to lazy.* The queue is made and written in place first, then the byte
//! is stored with release; who reads it with acquire sees a whole queue. If the
//! queue cannot be made the byte has not changed. Unmaps that read the old value
//! finish strictly.
//!
//! *Lazy to strict.* The byte is stored; then a grace period
//! ([`Slots::synchronize`](dmabench_platform::Slots::synchronize)) lets every
//! section end that may have read the old value, so that their entries are in
//! the queue; then the queue is drained. Afterwards no buffer that was unmapped
//! before the call can be reached.
//!
//! The queue, once made, stays as long as the domain: a later switch back uses
//! it again. So no reader ever has to be waited for to free it. Two switches at
//! once exclude each other by a lock, but for the drain.

#[cfg(all(test, loom))]
mod loom_tests;

use core::mem::MaybeUninit;

use dmabench_platform::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU8, Ordering},
    cell::UnsafeCell,
};

// Told apart by sign: of three equal comparisons the compiler would make a table,
// in an order of its own.
const STRICT: u8 = 0;
const LAZY: u8 = 1;
const PASSTHROUGH: u8 = 0xff;

/// What an unmap has read, for the whole of it.
pub(crate) enum Way<'a, Q> {
    Strict,
    Lazy(&'a Q),
    Passthrough,
}

/// The way of unmaps; `Q` is the queue that lazy ones need.
pub(crate) struct ModeSwitch<Q> {
    way: AtomicU8,
    /// Whether nothing is translated: then `way` says so and never changes.
    passthrough: bool,
    /// Whether `queue` has been written; it is never taken back.
    made: AtomicBool,
    queue: UnsafeCell<MaybeUninit<Q>>,
    switching: Mutex<()>,
    #[cfg(all(test, loom))]
    pub(crate) fault: Fault,
}

/// Ways to be wrong, for the models that must notice.
#[cfg(all(test, loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The byte is published without the release.
    PublishRelaxed,
    /// The byte is stored before the queue is there.
    FlagFirst,
    /// The way back does not wait for unmaps that go the old way.
    NoGrace,
    /// Switches do not exclude each other.
    NoLock,
}

// SAFETY: `queue` is written once, by the holder of `switching`, before `made`
// and `way` say so with release; it is read through shared references only,
// after one of them said so with acquire. So it is shared (`Sync`), and moves to
// and is dropped by whoever owns the switch (`Send`).
unsafe impl<Q: Send + Sync> Sync for ModeSwitch<Q> {}
// SAFETY: as above.
unsafe impl<Q: Send> Send for ModeSwitch<Q> {}

/// Why [`ModeSwitch::relax`] did nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelaxError<E> {
    Passthrough,
    /// The queue that is there is not as wanted.
    OtherQueue,
    /// The queue cannot be made.
    Make(E),
}

impl<Q> ModeSwitch<Q> {
    fn new(way: u8, queue: Option<Q>) -> Self {
        ModeSwitch {
            way: AtomicU8::new(way),
            passthrough: way == PASSTHROUGH,
            made: AtomicBool::new(queue.is_some()),
            queue: UnsafeCell::new(match queue {
                Some(queue) => MaybeUninit::new(queue),
                None => MaybeUninit::uninit(),
            }),
            switching: Mutex::new(()),
            #[cfg(all(test, loom))]
            fault: Fault::None,
        }
    }

    /// Strict, without a queue.
    pub(crate) fn strict() -> Self {
        Self::new(STRICT, None)
    }

    /// Lazy from the beginning.
    pub(crate) fn lazy(queue: Q) -> Self {
        Self::new(LAZY, Some(queue))
    }

    /// Nothing is translated, and that does not change.
    pub(crate) fn passthrough() -> Self {
        Self::new(PASSTHROUGH, None)
    }

    /// The way to go. To be read once for each unmap, inside its section, which
    /// must not be paused between here and the last thing that depends on it.
    #[inline(always)]
    pub(crate) fn way(&self) -> Way<'_, Q> {
        let way = self.way.load(Ordering::Acquire);
        if way == STRICT {
            return Way::Strict;
        }
        if way.cast_signed() > 0 {
            // SAFETY: `way` is stored as `LAZY` after the queue was written, with
            // release, or was so from the beginning.
            return Way::Lazy(unsafe { self.queue_unchecked() });
        }
        Way::Passthrough
    }

    /// Whether nothing is translated: it never changes.
    #[inline(always)]
    pub(crate) fn is_passthrough(&self) -> bool {
        self.passthrough
    }

    /// The queue, if there has ever been a need for one. Unmaps may be strict
    /// again meanwhile.
    #[inline]
    pub(crate) fn queue(&self) -> Option<&Q> {
        if self.made.load(Ordering::Acquire) {
            // SAFETY: `made` is stored after the queue was written, with
            // release, or was so from the beginning.
            Some(unsafe { self.queue_unchecked() })
        } else {
            None
        }
    }

    /// # Safety
    ///
    /// The queue has been written, and the caller has seen that.
    #[inline(always)]
    unsafe fn queue_unchecked(&self) -> &Q {
        #[cfg(all(test, loom))]
        assert!(
            self.made.load(Ordering::Relaxed),
            "a lazy way without a queue"
        );
        // SAFETY: written, as promised, and never written again.
        self.queue
            .with(|queue| unsafe { (*queue).assume_init_ref() })
    }

    /// Strict to lazy, now and under running I/O. `fits` says whether a queue
    /// that is there is the wanted one; else `make` makes it.
    pub(crate) fn relax<E>(
        &self,
        fits: impl FnOnce(&Q) -> bool,
        make: impl FnOnce() -> Result<Q, E>,
    ) -> Result<(), RelaxError<E>> {
        #[cfg(not(all(test, loom)))]
        let _one_at_a_time = self.switching.lock();
        #[cfg(all(test, loom))]
        let _one_at_a_time = (self.fault != Fault::NoLock).then(|| self.switching.lock());
        if self.is_passthrough() {
            return Err(RelaxError::Passthrough);
        }
        #[cfg(all(test, loom))]
        if self.fault == Fault::FlagFirst {
            self.way.store(LAZY, Ordering::Release);
        }
        match self.queue() {
            Some(queue) if !fits(queue) => return Err(RelaxError::OtherQueue),
            Some(_) => {}
            None => {
                let new = make().map_err(RelaxError::Make)?;
                // SAFETY: nobody reads it before `made` or `way` says so, and
                // nobody else writes it: the lock is held, and `made` was false.
                self.queue.with_mut(|queue| unsafe {
                    (*queue).write(new);
                });
                self.made.store(true, self.publish_ordering());
            }
        }
        self.way.store(LAZY, self.publish_ordering());
        Ok(())
    }

    #[inline]
    fn publish_ordering(&self) -> Ordering {
        #[cfg(all(test, loom))]
        if self.fault == Fault::PublishRelaxed {
            return Ordering::Relaxed;
        }
        Ordering::Release
    }

    /// Lazy to strict: after the return every unmap that reads the way goes the
    /// strict one, and every one that went the lazy way has queued what it had.
    /// `grace` waits until all sections that are open have ended. The queue that
    /// is to be drained now, if there ever was one.
    pub(crate) fn tighten(&self, grace: impl FnOnce()) -> Option<&Q> {
        {
            let _one_at_a_time = self.switching.lock();
            if !self.passthrough {
                // Not looked at before: loom 0.7 forgets another thread's look
                // when the writer looks too.
                self.way.store(STRICT, Ordering::Release);
            }
        }
        let queue = self.queue()?;
        #[cfg(all(test, loom))]
        if self.fault == Fault::NoGrace {
            return Some(queue);
        }
        // Whatever made the way strict, this call or an earlier one: sections
        // that read it before may still be open.
        grace();
        Some(queue)
    }
}

impl<Q> Drop for ModeSwitch<Q> {
    fn drop(&mut self) {
        if self.made.load(Ordering::Acquire) {
            // SAFETY: written, as `made` says, and dropped here only.
            self.queue
                .with_mut(|queue| unsafe { (*queue).assume_init_drop() });
        }
    }
}
