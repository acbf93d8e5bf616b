//! The guard of a section: plain stores on the way in and out.

use core::marker::PhantomData;

use super::{INSIDE, OUTSIDE, PAUSED, Reentered, STATE, SlotIndex, SlotState, Slots, light};
use crate::sync::{MutexGuard, atomic::Ordering};

/// Proof that the caller is inside a section of its slot.
///
/// Neither `Send` nor `Sync`: the slot belongs to this thread or CPU. Ends the
/// section when dropped.
#[derive(Debug)]
pub struct SlotGuard<'s> {
    slots: &'s Slots,
    /// `slots.states[index]`, so that leaving costs no look-up.
    state: &'s SlotState,
    index: SlotIndex,
    /// Held for as long as the guard of the fallback slot lives, pauses
    /// included. `None` for a slot of one's own.
    _fallback: Option<MutexGuard<'s, ()>>,
    _not_send: PhantomData<*mut ()>,
}

impl<'s> SlotGuard<'s> {
    /// # Safety
    ///
    /// * `index` is of this table.
    /// * It is the fallback's if and only if `fallback` is its lock; else no
    ///   other thread or CPU enters this slot while the guard lives.
    #[inline]
    pub(super) unsafe fn enter(
        slots: &'s Slots,
        index: SlotIndex,
        fallback: Option<MutexGuard<'s, ()>>,
    ) -> Result<Self, Reentered> {
        debug_assert!(index.as_usize() < slots.states.len());
        // SAFETY: the table has a state for each of its indices.
        let state: &SlotState = unsafe { slots.states.get_unchecked(index.as_usize()) };
        let now = state.section.load(Ordering::Relaxed);
        if now & STATE != OUTSIDE {
            return Err(Reentered);
        }
        open(slots, state, now.wrapping_add(INSIDE));
        Ok(SlotGuard {
            slots,
            state,
            index,
            _fallback: fallback,
            _not_send: PhantomData,
        })
    }

    /// The slot this guard is of.
    #[inline]
    pub fn index(&self) -> SlotIndex {
        self.index
    }

    /// The table the slot belongs to.
    #[inline]
    pub fn slots(&self) -> &'s Slots {
        self.slots
    }

    /// Runs `f` outside the section, so that nobody waits for it meanwhile:
    /// for anything that takes long. Others may drain the slot during the
    /// pause.
    pub fn pause<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let _resume = self.step_out();
        f()
    }

    /// Lets outsiders have the slot until the result is dropped. The release
    /// pairs with the acquire load of whoever waits for it.
    #[inline]
    pub(super) fn step_out(&mut self) -> Resume<'_> {
        let paused = next(self.state, PAUSED);
        self.state.section.store(paused, Ordering::Release);
        Resume {
            slots: self.slots,
            state: self.state,
        }
    }
}

/// Opens the section again at the end of a pause, unwinding included. It
/// borrows the guard, so the guard is of no use before.
pub(super) struct Resume<'a> {
    slots: &'a Slots,
    state: &'a SlotState,
}

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        open(self.slots, self.state, next(self.state, INSIDE));
    }
}

// Functions of the slot, not of the guard: a guard whose address is not taken
// can live in registers.

/// The next value of the counter that says `wanted`. Plain load: nobody but the
/// owner, who calls this, writes it.
#[inline]
fn next(state: &SlotState, wanted: u64) -> u64 {
    let now = state.section.load(Ordering::Relaxed);
    now.wrapping_add(wanted.wrapping_sub(now) & STATE)
}

/// Opens the section: `next` is the counter's next value that says so.
#[inline]
fn open(slots: &Slots, state: &SlotState, next: u64) {
    debug_assert_eq!(next & STATE, INSIDE);
    // Release: whoever waits for an earlier section and reads this value must
    // see what that section did.
    state.section.store(next, Ordering::Release);
    light(slots.asymmetric);
    // Acquire: pairs with the release that lowered the flag.
    if state.revoked.load(Ordering::Acquire) {
        wait_for_outsider(slots, state);
    }
}

#[cold]
#[inline(never)]
fn wait_for_outsider(slots: &Slots, state: &SlotState) {
    while state.revoked.load(Ordering::Acquire) {
        state.section.store(next(state, PAUSED), Ordering::Release);
        // The outsider holds this lock until it has lowered the flag.
        drop(slots.outsider.lock());
        state.section.store(next(state, INSIDE), Ordering::Release);
        light(slots.asymmetric);
    }
}

impl Drop for SlotGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // Before the lock of the fallback, a field, is released.
        let section = &self.state.section;
        // `next(OUTSIDE)`, which is zero in the low bits, in two operations.
        let outside = section.load(Ordering::Relaxed).wrapping_add(STATE) & !STATE;
        section.store(outside, Ordering::Release);
    }
}
