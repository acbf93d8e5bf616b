//! Many threads on one queue: every entry comes out once.

use alloc::sync::Arc;

use dmabench_platform::{Fences, SlotGuard, Slots, TimeNs, sync::Mutex};

use super::{
    FlushQueue, Rings, SingleQueue,
    test_support::{T, config, enter},
};
use crate::CountingBackend;

const THREADS: usize = 3;
const PER_THREAD: usize = if cfg!(miri) { 40 } else { 20_000 };

/// What comes out of a flush, and in whose section.
type Release<'a> = &'a mut dyn FnMut(&mut SlotGuard<'_>, usize);

/// Threads push numbers, `push` one of them; it may flush, and hands on what comes
/// out.
fn all_come_out_once<R: Rings<usize>>(
    push: impl Fn(&FlushQueue<usize, (), R>, &mut SlotGuard<'_>, usize, Release<'_>) + Sync,
) {
    let slots = Arc::new(Slots::new(THREADS, Fences::detect()).unwrap());
    let queue = FlushQueue::new(config(64), slots.clone()).unwrap();
    let sum = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (queue, slots, push, sum) = (&queue, &slots, &push, &sum);
            scope.spawn(move || {
                let mut out = (0, 0);
                for entry in 0..PER_THREAD {
                    // SAFETY: one thread for each number.
                    let mut slot = unsafe { enter(slots, thread) };
                    push(queue, &mut slot, entry, &mut |_, e| {
                        out = (out.0 + 1, out.1 + e);
                    });
                }
                let mut sum = sum.lock();
                *sum = (sum.0 + out.0, sum.1 + out.1);
            });
        }
    });
    let (mut count, mut total) = *sum.lock();
    let mut slot = slots.enter_fallback();
    let rest = queue.drain(&mut slot, &CountingBackend::new(&slots), &(), T, |_, e| {
        count += 1;
        total += e;
    });
    rest.unwrap();
    assert_eq!(count, THREADS * PER_THREAD);
    assert_eq!(total, THREADS * PER_THREAD * (PER_THREAD - 1) / 2);
}

#[test]
fn of_a_ring_for_each() {
    let slots = Slots::new(THREADS, Fences::detect()).unwrap();
    let backend = CountingBackend::new(&slots);
    all_come_out_once(|queue: &FlushQueue<usize>, slot, entry, mut release| {
        if queue.room(slot).is_none() {
            let done = queue.flush_own(slot, &backend, &(), T, &mut release);
            done.unwrap();
        }
        queue.push(slot, entry).unwrap();
        if entry % 1000 == 999 {
            let now = TimeNs(entry as u64);
            let done = queue.poll(slot, now, &backend, &(), T, &mut release);
            done.unwrap();
        }
    });
}

#[test]
fn of_one_ring_for_all() {
    let slots = Slots::new(THREADS, Fences::detect()).unwrap();
    let backend = CountingBackend::new(&slots);
    all_come_out_once(|queue: &SingleQueue<usize>, slot, entry, mut release| {
        loop {
            if let Some(room) = queue.take_room(slot) {
                room.push(entry);
                return;
            }
            let done = queue.flush_own(slot, &backend, &(), T, &mut release);
            done.unwrap();
        }
    });
}
