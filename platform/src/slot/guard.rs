//! The guard of a section: plain stores on the way in and out.

use core::marker::PhantomData;

use super::{
    INSIDE, OUTSIDE, PAUSED, REVOKED, Reentered, SHARED, STATE, SYMMETRIC, SlotIndex, SlotState,
    Slots,
};
use crate::sync::atomic::{Ordering, fence};

/// Proof that the caller is inside a section of its slot.
///
/// Neither `Send` nor `Sync`: the slot belongs to this thread or CPU. Ends the
/// section when dropped.
// Three words, so that what is made and dropped with every request stays in
// registers. The number is known to whoever enters: read back from the state it
// would come two loads later, and what a slot keeps is found with it. It stands
// between the references: two side by side LLVM packs into a vector register, and
// spills that (4 instructions of a pair).
#[derive(Debug)]
#[repr(C)]
pub struct SlotGuard<'s> {
    slots: &'s Slots,
    index: usize,
    /// `slots.states[index]`.
    state: &'s SlotState,
    _not_send: PhantomData<*mut ()>,
}

impl<'s> SlotGuard<'s> {
    /// # Safety
    ///
    /// * `index` is below the number of states of this table.
    /// * If it is the fallback's, the caller has acquired its lock, which the
    ///   guard releases; else no other thread or CPU enters this slot while the
    ///   guard lives.
    #[inline]
    pub(super) unsafe fn enter(slots: &'s Slots, index: usize) -> Result<Self, Reentered> {
        // SAFETY: as promised by the caller.
        let state: &SlotState = unsafe { slots.states.get_unchecked(index) };
        let now = state.section.load(Ordering::Relaxed);
        if now & STATE != OUTSIDE {
            return Err(Reentered);
        }
        open(slots, state, now.wrapping_add(INSIDE));
        Ok(SlotGuard {
            slots,
            state,
            index,
            _not_send: PhantomData,
        })
    }

    /// The slot this guard is of.
    #[inline]
    pub fn index(&self) -> SlotIndex {
        // A table has far fewer than 2^32.
        SlotIndex(self.index as u32)
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
    // The light fence, where the fences are not symmetric.
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    // Acquire: pairs with the release that lowered the flag.
    if state.attention.load(Ordering::Acquire) != 0 {
        look_closer(slots, state);
    }
}

/// Symmetric fences, or an outsider that wants the slot.
#[cold]
#[inline(never)]
fn look_closer(slots: &Slots, state: &SlotState) {
    loop {
        if slots.calm & SYMMETRIC != 0 {
            fence(Ordering::SeqCst);
        }
        // After the fence, so this one is what the protocol counts on.
        if state.attention.load(Ordering::Acquire) & REVOKED == 0 {
            return;
        }
        state.section.store(next(state, PAUSED), Ordering::Release);
        // The outsider holds this lock until it has lowered the flag.
        drop(slots.outsider.lock());
        state.section.store(next(state, INSIDE), Ordering::Release);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
}

impl Drop for SlotGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let section = &self.state.section;
        let shared = section.load(Ordering::Relaxed) & SHARED != 0;
        // Inside, not paused: a pause borrows the guard. Read a second time, so
        // that load, addition and store are one instruction.
        let inside = section.load(Ordering::Relaxed);
        debug_assert_eq!(inside & STATE, INSIDE);
        section.store(inside.wrapping_add(STATE + 1 - INSIDE), Ordering::Release);
        if shared {
            leave_fallback(self.slots);
        }
    }
}

#[cold]
#[inline(never)]
fn leave_fallback(slots: &Slots) {
    // SAFETY: `SHARED` is in the fallback's counter only, whose guard came with
    // the lock, and this guard is dropped once, on its own thread. It borrows the
    // table, which therefore has not moved.
    unsafe { slots.fallback.release() };
}
