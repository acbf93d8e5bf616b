//! Models of the section protocol: every interleaving loom can find of an
//! owner and an outsider, and the same without the light fence, which loom must
//! see fail.

use alloc::sync::Arc;

use loom::{model::Builder, thread};

use super::{PerSlot, Slots};
use crate::{
    Fences,
    sync::{
        atomic::{AtomicUsize, Ordering},
        cell::UnsafeCell,
    },
};

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// One owner adds twice to its own value, one outsider takes it.
fn owner_against_outsider(fences: Fences) {
    let slots = Arc::new(Slots::new(1, fences).unwrap());
    let values = Arc::new(PerSlot::new(slots.clone(), |_| 0u32).unwrap());
    let owner = {
        let (slots, values) = (slots.clone(), values.clone());
        thread::spawn(move || {
            for _ in 0..2 {
                // SAFETY: this thread is the only one that enters slot 0.
                let mut guard = unsafe { slots.enter(Some(0)).unwrap() };
                *values.get(&mut guard) += 1;
            }
        })
    };
    let own = slots.indices().next().unwrap();
    let taken = slots.exclusive(None, |exclusive| {
        core::mem::take(&mut *values.get_exclusive(exclusive, own))
    });
    owner.join().unwrap();
    let left = slots.exclusive(None, |exclusive| *values.get_exclusive(exclusive, own));
    assert_eq!(taken + left, 2, "an addition was lost");
}

#[test]
fn loom_owner_and_outsider_never_touch_the_data_at_once() {
    check(|| owner_against_outsider(Fences::Symmetric));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_sees_the_missing_light_fence() {
    check(|| owner_against_outsider(Fences::LightMissing));
}

/// Two outsiders, one of them an owner that pauses for it.
#[test]
fn loom_two_outsiders_do_not_wait_for_each_other() {
    check(|| {
        let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
        let values = Arc::new(PerSlot::new(slots.clone(), |_| 0u32).unwrap());
        let owner = {
            let (slots, values) = (slots.clone(), values.clone());
            thread::spawn(move || {
                // SAFETY: this thread is the only one that enters slot 0.
                let mut guard = unsafe { slots.enter(Some(0)).unwrap() };
                *values.get(&mut guard) += 1;
                let own = guard.index();
                slots.exclusive(Some(&mut guard), |exclusive| {
                    *values.get_exclusive(exclusive, own) += 1;
                });
                *values.get(&mut guard) += 1;
            })
        };
        let own = slots.indices().next().unwrap();
        slots.exclusive(None, |exclusive| {
            *values.get_exclusive(exclusive, own) += 1;
        });
        owner.join().unwrap();
        let sum = slots.exclusive(None, |exclusive| *values.get_exclusive(exclusive, own));
        assert_eq!(sum, 4);
    });
}

/// A reader follows an index inside a section; the writer unlinks what it
/// points to, waits, and only then destroys it.
fn reader_against_reclaimer(fences: Fences) {
    struct Shared {
        slots: Slots,
        current: AtomicUsize,
        nodes: [UnsafeCell<u32>; 2],
    }
    // SAFETY: the cells are shared on purpose: the model checks that the
    // protocol keeps their accesses apart.
    unsafe impl Sync for Shared {}
    let shared = Arc::new(Shared {
        slots: Slots::new(1, fences).unwrap(),
        current: AtomicUsize::new(0),
        nodes: [UnsafeCell::new(7), UnsafeCell::new(7)],
    });
    let reader = {
        let shared = shared.clone();
        thread::spawn(move || {
            // SAFETY: this thread is the only one that enters slot 0.
            let _guard = unsafe { shared.slots.enter(Some(0)).unwrap() };
            let index = shared.current.load(Ordering::Acquire);
            // SAFETY: the node was linked when the section was open, so the
            // writer waits for the section before it destroys it.
            let value = shared.nodes[index].with(|node| unsafe { *node });
            assert_eq!(value, 7, "read a node that was destroyed");
        })
    };
    shared.current.store(1, Ordering::Release);
    shared.slots.synchronize();
    // SAFETY: nobody can reach node 0 any more.
    shared.nodes[0].with_mut(|node| unsafe { *node = 0 });
    reader.join().unwrap();
}

#[test]
fn loom_synchronize_waits_for_sections_that_may_have_seen_it() {
    check(|| reader_against_reclaimer(Fences::Symmetric));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_sees_a_grace_period_without_the_light_fence() {
    check(|| reader_against_reclaimer(Fences::LightMissing));
}

/// A slot handed from one thread to the next carries its data along.
#[test]
fn loom_slot_handed_over_carries_its_data() {
    check(|| {
        let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
        let values = Arc::new(PerSlot::new(slots.clone(), |_| 0u32).unwrap());
        let add = {
            let (slots, values) = (slots.clone(), values.clone());
            move || {
                // SAFETY: the second caller starts after the first was joined.
                let mut guard = unsafe { slots.enter(Some(0)).unwrap() };
                *values.get(&mut guard) += 1;
            }
        };
        thread::spawn(add.clone()).join().unwrap();
        thread::spawn(add).join().unwrap();
        let own = slots.indices().next().unwrap();
        let sum = slots.exclusive(None, |exclusive| *values.get_exclusive(exclusive, own));
        assert_eq!(sum, 2);
    });
}

/// Two users of the fallback slot.
#[test]
fn loom_fallback_is_shared_under_its_lock() {
    check(|| {
        let slots = Arc::new(Slots::new(0, Fences::Symmetric).unwrap());
        let values = Arc::new(PerSlot::new(slots.clone(), |_| 0u32).unwrap());
        let other = {
            let (slots, values) = (slots.clone(), values.clone());
            thread::spawn(move || *values.get(&mut slots.enter_fallback()) += 1)
        };
        *values.get(&mut slots.enter_fallback()) += 1;
        other.join().unwrap();
        assert_eq!(*values.get(&mut slots.enter_fallback()), 2);
    });
}
