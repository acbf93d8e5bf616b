//! The section protocol on real threads, and its refusals.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use std::{
    collections::HashSet,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::{PerSlot, Pinned, Reentered, SlotSource, Slots, SlotsError, ThreadSlots};
use crate::Fences;

fn table(own: usize) -> Arc<Slots> {
    Arc::new(Slots::new(own, Fences::detect()).unwrap())
}

#[test]
fn bad_input_68_more_slots_than_exist_is_refused() {
    assert_eq!(
        Slots::new(Slots::MAX + 1, Fences::Symmetric).unwrap_err(),
        SlotsError::TooMany {
            asked: Slots::MAX + 1
        }
    );
}

#[test]
fn bad_input_68_a_slot_beyond_the_table_is_the_fallback() {
    let slots = table(2);
    // SAFETY: the fallback may be entered by anybody.
    let guard = unsafe { slots.enter(Some(usize::MAX)).unwrap() };
    assert_eq!(guard.index().as_usize(), 2);
}

#[test]
fn a_pin_for_one_call_names_the_slot_of_any_pin() {
    let slots = table(64);
    let kept = ThreadSlots.pin();
    // SAFETY: dropped at the end of this function.
    let pin = unsafe { ThreadSlots.pin_for_call() };
    assert_eq!(pin.own(), kept.own());
    let guard = slots.enter_pinned(&pin).unwrap();
    assert_eq!(slots.enter_pinned(&kept).unwrap_err(), Reentered);
    assert_eq!(guard.index().as_usize(), kept.own());
}

#[test]
fn reentry_is_refused_also_while_paused() {
    let slots = table(64);
    let pin = ThreadSlots.pin();
    let mut guard = slots.enter_pinned(&pin).unwrap();
    assert_eq!(slots.enter_pinned(&pin).unwrap_err(), Reentered);
    guard.pause(|| {
        assert_eq!(slots.enter_pinned(&pin).unwrap_err(), Reentered);
    });
    slots.exclusive(Some(&mut guard), |_| {
        assert_eq!(slots.enter_pinned(&pin).unwrap_err(), Reentered);
    });
    drop(guard);
    slots.enter_pinned(&pin).unwrap();
}

/// A guard that outlives a panicking drain is inside its section again, so that
/// the next drain waits for it: else both would reach the slot's data.
#[test]
fn a_guard_is_inside_again_after_a_panic_in_its_own_drain() {
    let slots = table(64);
    let pin = ThreadSlots.pin();
    let mut guard = slots.enter_pinned(&pin).unwrap();
    let drained = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        slots.exclusive(Some(&mut guard), |_| panic!("in a drain"));
    }));
    assert!(drained.is_err());
    let held = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| slots.exclusive(None, |_| assert!(!held.load(SeqCst))));
        thread::sleep(Duration::from_millis(50));
        held.store(false, SeqCst);
        drop(guard);
    });
}

#[test]
fn a_panic_inside_a_pause_or_drain_leaves_the_table_usable() {
    let slots = table(64);
    let pin = ThreadSlots.pin();
    let mut guard = slots.enter_pinned(&pin).unwrap();
    let paused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        guard.pause(|| panic!("in a pause"));
    }));
    assert!(paused.is_err());
    drop(guard);
    let drained = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        slots.exclusive(None, |_| panic!("in a drain"));
    }));
    assert!(drained.is_err());
    slots.enter_pinned(&pin).unwrap();
}

#[test]
#[should_panic(expected = "another table")]
fn a_guard_of_another_table_is_refused() {
    let (one, two) = (table(0), table(0));
    let values = PerSlot::new(one, |_| 0u32).unwrap();
    *values.get(&mut two.enter_fallback()) += 1;
}

#[test]
fn living_threads_have_different_slots_and_ended_ones_give_theirs_back() {
    const THREADS: usize = 8;
    let slots = table(Slots::MAX);
    let round = || -> HashSet<usize> {
        let together = Arc::new(Barrier::new(THREADS));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (slots, together) = (slots.clone(), together.clone());
                thread::spawn(move || {
                    let pin = ThreadSlots.pin();
                    let index = slots.enter_pinned(&pin).unwrap().index().as_usize();
                    together.wait();
                    index
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    };
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let indices = round();
        assert_eq!(indices.len(), THREADS, "two living threads shared a slot");
        seen.extend(indices);
    }
    // Other tests run in parallel and take numbers too, but 50 rounds without
    // reuse would need 400.
    assert!(
        seen.len() < 200,
        "numbers are not given back: {}",
        seen.len()
    );
}

#[test]
fn drains_beside_running_owners_lose_nothing() {
    drains_beside_owners(Fences::detect());
}

#[test]
fn drains_beside_running_owners_lose_nothing_with_symmetric_fences() {
    drains_beside_owners(Fences::Symmetric);
}

fn drains_beside_owners(fences: Fences) {
    const ADDS: u64 = 20_000;
    let slots = Arc::new(Slots::new(2, fences).unwrap());
    let values = Arc::new(PerSlot::new(slots.clone(), |_| 0u64).unwrap());
    let owners: Vec<_> = [Some(0), Some(1), None]
        .into_iter()
        .map(|own| {
            let (slots, values) = (slots.clone(), values.clone());
            thread::spawn(move || {
                // SAFETY: each thread has an index of its own, or none.
                let pin = unsafe { Pinned::new(own, ()) };
                for _ in 0..ADDS {
                    let mut guard = slots.enter_pinned(&pin).unwrap();
                    *values.get(&mut guard) += 1;
                }
            })
        })
        .collect();
    let mut sum = 0;
    let take = || {
        slots.exclusive(None, |exclusive| {
            slots
                .indices()
                .map(|index| core::mem::take(&mut *values.get_exclusive(exclusive, index)))
                .sum::<u64>()
        })
    };
    while owners.iter().any(|owner| !owner.is_finished()) {
        sum += take();
    }
    for owner in owners {
        owner.join().unwrap();
    }
    sum += take();
    assert_eq!(sum, 3 * ADDS);
}

/// A pin kept in a thread-local outlives the destructor that gives the thread's
/// number back; another thread must not get the number meanwhile.
#[test]
fn a_number_is_not_given_out_again_while_a_pin_names_it() {
    use std::{cell::RefCell, sync::mpsc::channel};

    type Kept = Pinned<<ThreadSlots as SlotSource>::Pin>;
    type Last = Box<dyn FnOnce()>;
    struct AtTheEnd(RefCell<Option<(Kept, Last)>>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            if let Some((pin, last)) = self.0.take() {
                last();
                drop(pin);
            }
        }
    }
    // Touched before the first pin, hence destroyed after the number's owner.
    std::thread_local!(static KEPT: AtTheEnd = const { AtTheEnd(RefCell::new(None)) });

    let (tell, hear) = channel();
    thread::spawn(move || {
        KEPT.with(|kept| {
            let pin = ThreadSlots.pin();
            let number = pin.own();
            let at_the_end = move || {
                let others: Vec<usize> = (0..32)
                    .map(|_| thread::spawn(|| ThreadSlots.pin().own()).join().unwrap())
                    .collect();
                tell.send((number, others)).unwrap();
            };
            *kept.0.borrow_mut() = Some((pin, Box::new(at_the_end)));
        });
    })
    .join()
    .unwrap();
    let (number, others) = hear.recv().unwrap();
    assert!(!others.contains(&number), "slot {number} has two owners");
}
