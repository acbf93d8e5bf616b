//! The interface to the hardware that holds translations.

use core::fmt;

use dmabench_platform::{SlotGuard, Timeout};

use crate::{JoinCost, TlbRange};

/// A point in a backend's stream of invalidations, made by
/// [`TlbBackend::sync_begin`]. The number means something to the backend only,
/// except that a later call returns one that is not smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Ticket(pub u64);

/// Proof of a backend that every invalidation before a [`Ticket`] has
/// completed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Synced(Ticket);

impl Synced {
    /// For implementers of [`TlbBackend`].
    ///
    /// # Safety
    ///
    /// Every invalidation that this backend accepted before the call to
    /// [`sync_begin`](TlbBackend::sync_begin) that returned `up_to` has
    /// completed, in the sense of [`TlbBackend`].
    #[inline]
    pub const unsafe fn new(up_to: Ticket) -> Self {
        Synced(up_to)
    }

    /// The ticket up to which all is done.
    #[inline]
    pub const fn up_to(&self) -> Ticket {
        self.0
    }
}

/// Why a backend did not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// The command queue stayed full for the backend's own bound.
    QueueFull,
    /// The hardware refused a command, with the code it gave (SMMUv3: the
    /// error field of `CMDQ_CONS`).
    Rejected {
        /// The hardware's code.
        code: u32,
    },
    /// The backend has stopped after an earlier error; it must be reset.
    Stopped,
    /// The backend cannot express the request (a context of another backend, an
    /// address beyond its width).
    Unsupported,
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendError::QueueFull => {
                f.write_str("the invalidation queue stayed full; try again once the device runs")
            }
            BackendError::Rejected { code } => {
                write!(f, "the IOMMU refused an invalidation (code {code:#x})")
            }
            BackendError::Stopped => {
                f.write_str("the IOMMU's queue has stopped after an error; reset it")
            }
            BackendError::Unsupported => f.write_str(
                "the IOMMU cannot do this invalidation; check the context and the address width",
            ),
        }
    }
}

impl core::error::Error for BackendError {}

/// A sync that is not known to have completed. Nothing that depends on it may
/// be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Late {
    /// It had not completed when the time was up. It may complete later: wait
    /// for the same ticket again, or begin again.
    TimedOut {
        /// The time that was granted.
        after: Timeout,
    },
    /// It will not complete: begin again from the invalidation.
    Failed(BackendError),
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Late::TimedOut { after } => write!(
                f,
                "an invalidation was not complete after {} ns; what it covers stays allocated, try again",
                after.0
            ),
            Late::Failed(error) => write!(f, "a sync failed: {error}"),
        }
    }
}

impl core::error::Error for Late {}

impl From<BackendError> for Late {
    fn from(error: BackendError) -> Self {
        Late::Failed(error)
    }
}

/// Removes cached translations: an SMMU's command queue, a software model, a
/// hypercall.
///
/// *Completed* means: no TLB and no walk cache of any agent that uses the
/// context holds an entry that the invalidation covers, no walk that began
/// earlier can make one, and every access that used such an entry has ended
/// (Arm IHI 0070, 4.7.3: what `CMD_SYNC` promises for earlier `CMD_TLBI`s).
///
/// # Concurrency
///
/// Any method may be called at any time by any number of threads. `slot` is the
/// caller's own guard where the caller is inside a section (the strict path),
/// for counters and queues of one's own without locked operations; it is `None`
/// from a flusher, which runs outside every section. A method that waits long
/// should do so in [`SlotGuard::pause`].
///
/// # Safety
///
/// Memory that a device can reach is given back on the word of this trait.
/// Implementers promise:
///
/// * **Order.** Stores to tables that happen before a call to `invalidate` or
///   `invalidate_all` are visible to the table walker before the invalidation
///   takes effect (AArch64: `dsb ishst` before the command is published).
/// * **Coverage.** `invalidate` covers every leaf entry of each range: of the
///   stated level, or of every level where it is `None`; and, unless
///   `leaf_only`, every cached table entry of the range. `invalidate_all`
///   covers every entry of the context. More is allowed, less is not.
/// * **Completion.** `sync_wait` returns `Ok` for a ticket only if every
///   invalidation that returned `Ok` before the matching `sync_begin` was
///   called has completed; *before* in the order of one thread, or by
///   happens-before across threads. The [`Synced`] says that ticket or a later
///   one. When in doubt the answer is [`Late`].
/// * **Bounded.** `sync_wait` returns within about `timeout`; no other method
///   waits for ever, whatever the hardware does.
/// * **Failure.** An `Err` may leave any part of the work done; the caller
///   takes none as done and does it again. A call that unwinds counts as
///   failed: it leaves the backend usable and promises nothing.
/// * **No way back.** No method calls into the domain or the flush queue that
///   called it, nor enters the slot it was called from: the caller is inside a
///   section or holds the flushers' lock. A pause of `slot` has ended when the
///   method returns, and the guard behind it is the one that was passed in (not
///   swapped for another).
///
/// # A backend in three steps
///
/// ```
/// use dmabench_flushq::{BackendError, Late, Synced, Ticket, TlbBackend, TlbRange};
/// use dmabench_platform::{SlotGuard, Timeout};
/// use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
///
/// // 1. The hardware: here a queue that executes a command at once.
/// #[derive(Debug, Default)]
/// struct Mmio {
///     commands_done: AtomicU64,
/// }
///
/// // 2. What names an address space in its commands.
/// #[derive(Clone, Copy, Debug)]
/// struct Asid(u16);
///
/// impl Mmio {
///     fn command(&self, _opcode: u8, _asid: Asid, _operand: u64) -> u64 {
///         self.commands_done.fetch_add(1, SeqCst)
///     }
/// }
///
/// // 3. The trait.
/// //
/// // SAFETY: commands execute in order and at once, and `fetch_add` (SeqCst)
/// // orders earlier stores before them; each range is covered granule by
/// // granule with an opcode for all levels; nothing waits, unwinds or calls
/// // back.
/// unsafe impl TlbBackend for Mmio {
///     type Context = Asid;
///
///     fn invalidate(
///         &self,
///         _slot: Option<&mut SlotGuard<'_>>,
///         asid: &Asid,
///         ranges: &[TlbRange],
///     ) -> Result<(), BackendError> {
///         for range in ranges {
///             for page in 0..range.len_bytes / range.granule.bytes() {
///                 self.command(0x12, *asid, range.iova.0 + page * range.granule.bytes());
///             }
///         }
///         Ok(())
///     }
///
///     fn invalidate_all(
///         &self,
///         _slot: Option<&mut SlotGuard<'_>>,
///         asid: &Asid,
///     ) -> Result<(), BackendError> {
///         self.command(0x11, *asid, 0);
///         Ok(())
///     }
///
///     fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
///         Ok(Ticket(self.commands_done.load(SeqCst)))
///     }
///
///     fn sync_wait(
///         &self,
///         _slot: Option<&mut SlotGuard<'_>>,
///         ticket: Ticket,
///         timeout: Timeout,
///     ) -> Result<Synced, Late> {
///         if self.commands_done.load(SeqCst) < ticket.0 {
///             return Err(Late::TimedOut { after: timeout });
///         }
///         // SAFETY: every command before the ticket has executed.
///         Ok(unsafe { Synced::new(ticket) })
///     }
/// }
///
/// let hardware = Mmio::default();
/// hardware.invalidate_all(None, &Asid(7))?;
/// let ticket = hardware.sync_begin(None)?;
/// let synced = hardware.sync_wait(None, ticket, Timeout::DEFAULT)?;
/// assert!(synced.up_to() >= ticket);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe trait TlbBackend: Send + Sync {
    /// Names the address space: an ASID or VMID, and the stage.
    type Context: Copy + Send + Sync + 'static;

    /// Begins the invalidation of `ranges`, which is never empty.
    ///
    /// # Errors
    ///
    /// Any [`BackendError`]; the caller then keeps everything allocated.
    fn invalidate(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &Self::Context,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError>;

    /// Begins the invalidation of everything in the context.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &Self::Context,
    ) -> Result<(), BackendError>;

    /// Asks for a sign that everything begun so far has completed, and returns
    /// at once; the work of the hardware overlaps with the caller's.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    fn sync_begin(&self, slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError>;

    /// [`invalidate`](Self::invalidate), then [`sync_begin`](Self::sync_begin):
    /// for a backend in which one look at the caller's slot serves both.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    #[inline]
    fn invalidate_and_sync(
        &self,
        mut slot: Option<&mut SlotGuard<'_>>,
        context: &Self::Context,
        ranges: &[TlbRange],
    ) -> Result<Ticket, BackendError> {
        self.invalidate(slot.as_deref_mut(), context, ranges)?;
        self.sync_begin(slot)
    }

    /// What the hardware takes for commands and for what they make it forget: by
    /// it a gather of many ranges decides which of them become one. By default
    /// they are [kept apart](JoinCost::EXACT).
    #[inline]
    fn join_cost(&self) -> JoinCost {
        JoinCost::EXACT
    }

    /// Waits for the sign. A ticket may be waited for more than once, and by
    /// several threads.
    ///
    /// # Errors
    ///
    /// [`Late`] if completion is not certain within `timeout`.
    fn sync_wait(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        // SAFETY: every method is the pointee's.
        unsafe impl<B: TlbBackend + ?Sized> TlbBackend for $pointer {
            type Context = B::Context;

            #[inline]
            fn invalidate(
                &self,
                slot: Option<&mut SlotGuard<'_>>,
                context: &Self::Context,
                ranges: &[TlbRange],
            ) -> Result<(), BackendError> {
                (**self).invalidate(slot, context, ranges)
            }

            #[inline]
            fn invalidate_all(
                &self,
                slot: Option<&mut SlotGuard<'_>>,
                context: &Self::Context,
            ) -> Result<(), BackendError> {
                (**self).invalidate_all(slot, context)
            }

            #[inline]
            fn sync_begin(&self, slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
                (**self).sync_begin(slot)
            }

            #[inline]
            fn invalidate_and_sync(
                &self,
                slot: Option<&mut SlotGuard<'_>>,
                context: &Self::Context,
                ranges: &[TlbRange],
            ) -> Result<Ticket, BackendError> {
                (**self).invalidate_and_sync(slot, context, ranges)
            }

            #[inline]
            fn join_cost(&self) -> JoinCost {
                (**self).join_cost()
            }

            #[inline]
            fn sync_wait(
                &self,
                slot: Option<&mut SlotGuard<'_>>,
                ticket: Ticket,
                timeout: Timeout,
            ) -> Result<Synced, Late> {
                (**self).sync_wait(slot, ticket, timeout)
            }
        }
    )*};
}

forward!(&B, alloc::sync::Arc<B>);
