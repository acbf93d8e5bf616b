//! Slots: who may touch what without a lock.
//!
//! Each slot has a *section counter*, odd while its owner is inside a section,
//! and a *revoked* flag that outsiders raise. (The counter's second bit stands
//! while a section is paused, so that a paused slot is not entered again.) Both sides run Dekker's
//! algorithm over them, with the asymmetric fences of [`Fences`]:
//!
//! ```text
//! owner                          outsider (exclusive)
//!   section = odd                  revoked = true        (every slot)
//!   light fence                    heavy fence           (once)
//!   revoked?  -> step back,        wait until section is even
//!                wait, try again   ... touches the slots' data ...
//!   ... touches its data ...       revoked = false       (release)
//!   section = even   (release)
//! ```
//!
//! Either the owner sees the flag, or the outsider sees the odd counter; so at
//! no time do both touch the data. The counter, rather than a flag, lets
//! [`Slots::synchronize`] tell a section that began before the call from the
//! next one.

mod fallback;
mod guard;
#[cfg(all(test, loom))]
mod loom_tests;
mod per_slot;
mod source;
#[cfg(all(test, feature = "std", not(any(loom, shuttle))))]
mod tests;

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use crossbeam_utils::CachePadded;

use crate::{
    Fences,
    sync::{
        Backoff, Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};
use fallback::FallbackLock;
pub use guard::SlotGuard;
pub use per_slot::{NoMemory, PerSlot, SlotMut};
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
pub use source::ThreadSlots;
pub use source::{OneCpu, Pinned, SlotSource};

/// Number of a slot in its table. The last one is the shared fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex(pub(crate) u32);

impl SlotIndex {
    /// As an index into an array of [`Slots::count`] elements.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// A slot was entered while its owner was already inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reentered;

impl fmt::Display for Reentered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the caller is already inside a section of its slot; end that request first")
    }
}

impl core::error::Error for Reentered {}

/// Why a table of slots cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotsError {
    /// More slots than [`Slots::MAX`].
    TooMany {
        /// What was asked for.
        asked: usize,
    },
    /// No memory for the table.
    NoMemory,
}

impl fmt::Display for SlotsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotsError::TooMany { asked } => {
                write!(f, "{asked} slots asked for, at most {} exist", Slots::MAX)
            }
            SlotsError::NoMemory => {
                f.write_str("no memory for the table of slots: free some, or use fewer slots")
            }
        }
    }
}

impl core::error::Error for SlotsError {}

/// No section is open.
const OUTSIDE: u64 = 0;
/// The owner is inside a section: the only odd state.
const INSIDE: u64 = 1;
/// The owner has a guard, and lets others have the slot for a while.
const PAUSED: u64 = 2;
/// The bits that hold the state.
const STATE: u64 = 3;
/// Always set in the fallback's counter and never in another's, where it would
/// take a section per nanosecond for 70 years.
const SHARED: u64 = 1 << 63;

/// Outsiders want the slot.
const REVOKED: u8 = 1;
/// The table's fences are symmetric, so the owner needs a real one. Constant.
const SYMMETRIC: u8 = 2;

#[derive(Debug)]
pub(crate) struct SlotState {
    /// Only grows, and only the owner writes it. Its low two bits say where the
    /// owner is: [`OUTSIDE`], [`INSIDE`] or [`PAUSED`].
    section: AtomicU64,
    /// Zero unless the owner has to look closer: [`SYMMETRIC`], and [`REVOKED`],
    /// which outsiders raise under `Slots::outsider`.
    attention: AtomicU8,
}

/// A table of slots, shared by everything that one request passes through.
#[derive(Debug)]
pub struct Slots {
    states: Box<[CachePadded<SlotState>]>,
    fences: Fences,
    /// `attention` while nobody wants anything.
    calm: u8,
    /// Slots besides the fallback: one less than there are states.
    own: usize,
    /// Serialises the users of the fallback slot.
    fallback: FallbackLock,
    /// Serialises outsiders.
    outsider: Mutex<()>,
}

impl Slots {
    /// The most slots a table can have, the fallback aside.
    pub const MAX: usize = 4096;

    /// A table with `own` slots for CPUs or threads and the fallback. `own` may
    /// be 0: everybody then shares the fallback.
    ///
    /// # Errors
    ///
    /// [`SlotsError`].
    pub fn new(own: usize, fences: Fences) -> Result<Self, SlotsError> {
        if own > Self::MAX {
            return Err(SlotsError::TooMany { asked: own });
        }
        let calm = if fences.is_asymmetric() { 0 } else { SYMMETRIC };
        let mut states = Vec::new();
        states
            .try_reserve_exact(own + 1)
            .map_err(|_| SlotsError::NoMemory)?;
        states.extend((0..=own).map(|index| {
            CachePadded::new(SlotState {
                section: AtomicU64::new(if index == own { SHARED } else { 0 }),
                attention: AtomicU8::new(calm),
            })
        }));
        Ok(Slots {
            states: states.into_boxed_slice(),
            calm,
            own,
            fences,
            fallback: FallbackLock::new(),
            outsider: Mutex::new(()),
        })
    }

    /// Slots in the table, the fallback included: at least 1.
    #[inline]
    pub fn count(&self) -> usize {
        self.states.len()
    }

    /// Every index of the table.
    pub fn indices(&self) -> impl Iterator<Item = SlotIndex> + use<> {
        (0..self.states.len() as u32).map(SlotIndex)
    }

    /// The fences the table was made with.
    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    /// Enters the slot `own`, or the fallback where `own` is `None` or beyond
    /// the table.
    ///
    /// # Errors
    ///
    /// [`Reentered`] if a guard of that slot is alive. (A second guard of the
    /// *fallback* on the same thread waits for ever instead; sources that hand
    /// out `None` document it.)
    ///
    /// # Safety
    ///
    /// * While the guard lives, no other thread or CPU enters the slot `own`,
    ///   and the caller does not move to another one (in a kernel: preemption
    ///   is off).
    /// * An interrupt that arrives meanwhile on that CPU does not enter `own`
    ///   between the check for re-entry and the store that follows it; with
    ///   interrupts that use the core, turn them off around the request.
    #[inline]
    pub unsafe fn enter(&self, own: Option<usize>) -> Result<SlotGuard<'_>, Reentered> {
        // SAFETY: as promised by the caller.
        unsafe { self.enter_number(own.unwrap_or(source::NONE)) }
    }

    /// As [`enter`](Self::enter), with a number beyond the table for no slot.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Self::enter).
    #[inline]
    unsafe fn enter_number(&self, own: usize) -> Result<SlotGuard<'_>, Reentered> {
        if own >= self.own {
            return Ok(self.enter_fallback());
        }
        // SAFETY: the table has one state more than `self.own` says; the slot is
        // the caller's alone as promised.
        unsafe { SlotGuard::enter(self, own) }
    }

    /// Enters the fallback slot: safe for anybody, under a lock. Do not call it
    /// with another guard of the fallback alive on the same thread.
    #[cold]
    #[inline(never)]
    pub fn enter_fallback(&self) -> SlotGuard<'_> {
        self.fallback.acquire();
        // SAFETY: the lock is ours, and the guard releases it.
        match unsafe { SlotGuard::enter(self, self.own) } {
            Ok(guard) => guard,
            Err(Reentered) => unreachable!("a guard of the fallback holds its lock, paused or not"),
        }
    }

    /// Enters the slot that `pin` names. Safe, because only a [`SlotSource`]
    /// makes a pin, and the guard cannot outlive it.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter).
    #[inline]
    pub fn enter_pinned<'s, P>(&'s self, pin: &'s Pinned<P>) -> Result<SlotGuard<'s>, Reentered> {
        // SAFETY: whoever made the pin promised that the caller alone has this
        // slot while the pin lives, and the guard borrows the pin.
        unsafe { self.enter_number(pin.own()) }
    }

    /// Runs `f` while no owner is inside a section of any slot: `f` may touch
    /// what every [`PerSlot`] keeps. One heavy fence. Owners that come
    /// meanwhile wait, so `f` should be short.
    ///
    /// A caller that is inside a section itself passes its guard; its section
    /// is paused meanwhile, so others may have drained its slot too. (A caller
    /// that hides a guard it holds waits for itself; `f` must not enter a slot
    /// either.)
    pub fn exclusive<R>(
        &self,
        own: Option<&mut SlotGuard<'_>>,
        f: impl FnOnce(&mut Exclusive<'_>) -> R,
    ) -> R {
        // Declared before the lock, so that the section opens again after the
        // flags are down and the lock is free, even if `f` unwinds: the guard
        // lives on, and with it the right to the slot's data.
        let _resume = own.map(|guard| {
            assert!(core::ptr::eq(guard.slots(), self), "guard of another table");
            guard.step_out()
        });
        let _one_at_a_time = self.outsider.lock();
        // Lowers the flags even if `f` unwinds.
        let _revoked = Revoked::raise(self);
        self.fences.heavy();
        for state in &self.states {
            let mut backoff = Backoff::new();
            while state.section.load(Ordering::Acquire) & STATE == INSIDE {
                backoff.wait();
            }
        }
        f(&mut Exclusive { slots: self })
    }

    /// Waits until every section that was open at the time of the call has
    /// ended. What callers inside those sections had read is then no longer in
    /// use (Linux: `synchronize_rcu`). One heavy fence.
    ///
    /// The caller must not hold a guard of this table: it would wait for
    /// itself.
    pub fn synchronize(&self) {
        self.fences.heavy();
        for state in &self.states {
            let seen = state.section.load(Ordering::Acquire);
            if seen & STATE == INSIDE {
                let mut backoff = Backoff::new();
                while state.section.load(Ordering::Acquire) == seen {
                    backoff.wait();
                }
            }
        }
        // What follows must not be done before the loads above.
        self.fences.heavy();
    }
}

/// The flags of all slots are up while this lives.
struct Revoked<'s>(&'s Slots);

impl<'s> Revoked<'s> {
    fn raise(slots: &'s Slots) -> Self {
        for state in &slots.states {
            let raised = slots.calm | REVOKED;
            state.attention.store(raised, Ordering::Relaxed);
        }
        Revoked(slots)
    }
}

impl Drop for Revoked<'_> {
    fn drop(&mut self) {
        for state in &self.0.states {
            // Release: an owner that sees the flag down sees what was done to
            // its data.
            state.attention.store(self.0.calm, Ordering::Release);
        }
    }
}

/// Proof that no owner is inside a section: see [`Slots::exclusive`].
#[derive(Debug)]
pub struct Exclusive<'s> {
    slots: &'s Slots,
}

impl Exclusive<'_> {
    /// The table nobody is inside of.
    pub fn slots(&self) -> &Slots {
        self.slots
    }
}
