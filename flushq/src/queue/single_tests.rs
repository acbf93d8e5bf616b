//! The queue with one ring for all slots.

use alloc::{sync::Arc, vec::Vec};

use dmabench_platform::{SlotGuard, Slots, TimeNs};

use super::{
    Flushed, SingleQueue,
    test_support::{AtOnce, T, config, enter, slots},
};
use crate::CountingBackend;

fn queue(slots: &Arc<Slots>, entries_per_slot: usize) -> SingleQueue<usize> {
    SingleQueue::new(config(entries_per_slot), slots.clone()).unwrap()
}

fn push(queue: &SingleQueue<usize>, slot: &mut SlotGuard<'_>, entry: usize) -> bool {
    match queue.take_room(slot) {
        Some(room) => {
            room.push(entry);
            true
        }
        None => false,
    }
}

#[test]
fn slots_share_the_ring_and_who_fills_it_releases_all() {
    let slots = slots();
    let queue = queue(&slots, 4);
    let backend = CountingBackend::new(&slots);
    for number in [0, 1] {
        // SAFETY: one thread, and the guards of a slot do not overlap.
        let mut slot = unsafe { enter(&slots, number) };
        assert!(push(&queue, &mut slot, 2 * number));
        assert!(push(&queue, &mut slot, 2 * number + 1));
    }
    // SAFETY: as above.
    let mut slot = unsafe { enter(&slots, 0) };
    assert!(!push(&queue, &mut slot, 4), "four places");
    assert_eq!(queue.len(), 4);
    let mut out = Vec::new();
    let done = queue.flush_own(&mut slot, &backend, &(), T, |_, entry| out.push(entry));
    let all = Flushed {
        flushed: true,
        released: 4,
        extra: (),
    };
    assert_eq!(done, Ok(all));
    assert_eq!(out, [0, 1, 2, 3]);
    assert_eq!(backend.counts().flush_alls, 1);
    assert!(push(&queue, &mut slot, 4));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_place_that_was_taken_and_given_up_holds_nothing() {
    let slots = slots();
    let queue = queue(&slots, 4);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    assert!(push(&queue, &mut slot, 0));
    drop(queue.take_room(&mut slot));
    assert!(push(&queue, &mut slot, 1));
    let mut out = Vec::new();
    let done = queue.drain(&mut slot, &backend, &(), T, |_, entry| out.push(entry));
    assert_eq!(done.unwrap().released, 2);
    assert_eq!(out, [0, 1]);
    assert!(queue.is_empty());
}

#[test]
fn l2_an_entry_queued_during_a_flush_waits_for_the_next() {
    let slots = slots();
    let queue = Arc::new(queue(&slots, 4));
    let mut slot = slots.enter_fallback();
    assert!(push(&queue, &mut slot, 0));
    // As a slow producer on another slot.
    let backend = AtOnce(|| {
        // SAFETY: the other guard of this test is the fallback's.
        let mut slot = unsafe { enter(&slots, 0) };
        assert!(push(&queue, &mut slot, 1));
    });
    let done = queue.drain(&mut slot, &backend, &(), T, |_, entry| assert_eq!(entry, 0));
    assert_eq!(done.unwrap().released, 1);
    let backend = CountingBackend::new(&slots);
    let done = queue.drain(&mut slot, &backend, &(), T, |_, entry| assert_eq!(entry, 1));
    assert_eq!(done.unwrap().released, 1);
}

#[test]
fn l2_what_lies_behind_a_push_under_way_waits_with_it() {
    let slots = slots();
    let queue = queue(&slots, 8);
    let backend = CountingBackend::new(&slots);
    let mut fallback = slots.enter_fallback();
    // SAFETY: one thread, one guard for each number.
    let mut slow = unsafe { enter(&slots, 0) };
    assert!(push(&queue, &mut fallback, 0));
    let room = queue.take_room(&mut slow).unwrap();
    assert!(push(&queue, &mut fallback, 2));
    let mut out = Vec::new();
    let done = queue.drain(&mut fallback, &backend, &(), T, |_, e| out.push(e));
    assert_eq!(done.unwrap().released, 1);
    assert_eq!(out, [0]);
    room.push(1);
    let done = queue.drain(&mut fallback, &backend, &(), T, |_, e| out.push(e));
    assert_eq!(done.unwrap().released, 2);
    assert_eq!(out, [0, 1, 2]);
}

#[test]
fn bad_input_a_forgotten_place_is_never_read() {
    let slots = slots();
    let entry = Arc::new(());
    {
        let queue: SingleQueue<Arc<()>> = SingleQueue::new(config(4), slots.clone()).unwrap();
        let mut slot = slots.enter_fallback();
        queue.take_room(&mut slot).unwrap().push(entry.clone());
        core::mem::forget(queue.take_room(&mut slot));
        queue.take_room(&mut slot).unwrap().push(entry.clone());
        assert_eq!(Arc::strong_count(&entry), 3);
    }
    assert_eq!(Arc::strong_count(&entry), 1);
}

#[test]
fn few_at_once_are_released_call_by_call() {
    let slots = slots();
    let queue = queue(&slots, 16).releasing_at_most(3);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    for entry in 0..8 {
        assert!(push(&queue, &mut slot, entry));
    }
    let mut out = Vec::new();
    let done = queue.drain(&mut slot, &backend, &(), T, |_, e| out.push(e));
    assert_eq!(done.unwrap().released, 3);
    assert_eq!(queue.release_covered(&mut slot, |_, e| out.push(e)), 3);
    assert_eq!(queue.release_covered(&mut slot, |_, e| out.push(e)), 2);
    assert_eq!(queue.release_covered(&mut slot, |_, e| out.push(e)), 0);
    assert_eq!(out, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(backend.counts().flush_alls, 1);
}

#[test]
fn l1_the_timer_flushes_the_one_ring() {
    let slots = slots();
    let queue = queue(&slots, 16);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    assert!(push(&queue, &mut slot, 0));
    let poll = |slot: &mut SlotGuard<'_>, now| {
        let done = queue.poll(slot, TimeNs(now), &backend, &(), T, |_, _| ());
        done.unwrap().released
    };
    assert_eq!(poll(&mut slot, 5), 0);
    assert_eq!(queue.next_deadline(), Some(TimeNs(1005)));
    assert_eq!(poll(&mut slot, 1004), 0);
    assert_eq!(poll(&mut slot, 1005), 1);
    assert_eq!(queue.next_deadline(), None);
}
