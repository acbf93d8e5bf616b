use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use dmabench_platform::{Fences, SlotGuard, Slots, TimeNs, sync::Mutex};

use super::{
    test_support::{AtOnce, T, Tlb, config, enter, slots},
    *,
};
use crate::CountingBackend;

/// A page is *mapped* while the tables say so and *cached* until an
/// invalidation finds it unmapped: the hostile TLB that never evicts and refills
/// at once.
struct Model {
    mapped: Mutex<Vec<bool>>,
    cached: Mutex<Vec<bool>>,
    /// Fails this many calls of `sync_wait`.
    late: AtomicUsize,
    /// Runs in the middle of an invalidation.
    meanwhile: Mutex<Option<alloc::boxed::Box<dyn FnMut() + Send>>>,
}

impl Model {
    fn new(pages: usize) -> AtOnce<Self> {
        AtOnce(Model {
            mapped: Mutex::new(vec![true; pages]),
            cached: Mutex::new(vec![true; pages]),
            late: AtomicUsize::new(0),
            meanwhile: Mutex::new(None),
        })
    }

    fn unmap(&self, page: usize) -> usize {
        self.mapped.lock()[page] = false;
        page
    }

    fn is_stale(&self, page: usize) -> bool {
        self.cached.lock()[page]
    }
}

impl Tlb for Model {
    fn forget(&self) {
        self.cached.lock().copy_from_slice(&self.mapped.lock());
        if let Some(meanwhile) = self.meanwhile.lock().as_mut() {
            meanwhile();
        }
    }

    fn in_time(&self) -> bool {
        (self.late)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_err()
    }
}

fn queue(slots: &Arc<Slots>, entries_per_slot: usize) -> FlushQueue<usize> {
    FlushQueue::new(config(entries_per_slot), slots.clone()).unwrap()
}

/// Fills a ring of four with pages 0 to 3 and lets page 4 come in during the
/// flush; what is released while stale?
fn stale_releases(fault: Fault, late: usize) -> Vec<usize> {
    let slots = slots();
    let mut queue = queue(&slots, 4);
    queue.fault = fault;
    let queue = Arc::new(queue);
    let model = Arc::new(Model::new(5));
    model.late.store(late, Ordering::SeqCst);
    // SAFETY: the other guard of this test is of slot 1.
    let mut slot = unsafe { enter(&slots, 0) };
    for page in 0..4 {
        queue.push(&mut slot, model.unmap(page)).unwrap();
    }
    let (q, m, s) = (queue.clone(), Arc::downgrade(&model), slots.clone());
    *model.meanwhile.lock() = Some(alloc::boxed::Box::new(move || {
        // SAFETY: the other guard of this test is of slot 0.
        let mut slot = unsafe { enter(&s, 1) };
        let page = m.upgrade().unwrap().unmap(4);
        q.push(&mut slot, page).unwrap();
    }));
    let mut stale = Vec::new();
    let result = queue.drain(&mut slot, &*model, &(), T, |_, page| {
        if model.is_stale(page) {
            stale.push(page);
        }
    });
    assert_eq!(result.is_err(), late > 0 && fault != Fault::IgnoreFailure);
    *model.meanwhile.lock() = None;
    if fault == Fault::None {
        let done = queue
            .drain(&mut slot, &*model, &(), T, |_, page| {
                assert!(!model.is_stale(page));
            })
            .unwrap();
        assert_eq!(done.released, if late > 0 { 5 } else { 1 });
        assert!(queue.is_empty());
    }
    stale
}

#[test]
fn l2_an_entry_queued_during_a_flush_waits_for_the_next() {
    assert_eq!(stale_releases(Fault::None, 0), []);
}

#[test]
fn l2_a_queue_that_snapshots_late_releases_early_and_is_caught() {
    assert_eq!(stale_releases(Fault::SnapshotLate, 0), [4]);
}

#[test]
fn a11_a_failed_flush_releases_nothing_and_is_retried() {
    assert_eq!(stale_releases(Fault::None, 1), []);
}

#[test]
fn a11_a_queue_that_takes_a_late_sync_for_done_is_caught() {
    // The late sync of the model did invalidate, so look at what came out.
    let slots = slots();
    let mut queue = queue(&slots, 4);
    queue.fault = Fault::IgnoreFailure;
    let model = Model::new(1);
    model.late.store(1, Ordering::SeqCst);
    let mut slot = slots.enter_fallback();
    queue.push(&mut slot, model.unmap(0)).unwrap();
    let done = queue.drain(&mut slot, &model, &(), T, |_, _| ()).unwrap();
    assert_eq!(done.released, 1, "the fault must show");
}

#[test]
fn a_flush_costs_one_invalidate_all_per_full_ring() {
    let slots = slots();
    let queue = queue(&slots, 256);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    let unmaps = 256 * 40;
    let mut released = 0;
    for page in 0..unmaps {
        if queue.room(&mut slot).is_none() {
            let done = queue.flush_own(&mut slot, &backend, &(), T, |_, _| released += 1);
            assert_eq!(
                done,
                Ok(Flushed {
                    flushed: true,
                    released: 256,
                    extra: ()
                })
            );
        }
        queue.push(&mut slot, page).unwrap();
    }
    let counts = backend.counts();
    assert_eq!(counts.flush_alls, 39);
    assert_eq!(counts.syncs, 39);
    assert_eq!(counts.ranges, 0);
    assert_eq!(released + queue.len(), unmaps as u64);
}

#[test]
fn a_full_ring_uses_what_another_flush_has_covered() {
    let slots = slots();
    let queue = queue(&slots, 4);
    let backend = CountingBackend::new(&slots);
    // SAFETY: one thread, and the guards of a slot do not overlap.
    let mut other = unsafe { enter(&slots, 1) };
    queue.push(&mut other, 10).unwrap();
    drop(other);
    // SAFETY: as above.
    let mut own = unsafe { enter(&slots, 0) };
    for page in 0..4 {
        queue.push(&mut own, page).unwrap();
    }
    assert_eq!(queue.push(&mut own, 4), Err(4));
    let mut out = Vec::new();
    queue
        .flush_own(&mut own, &backend, &(), T, |_, page| out.push(page))
        .unwrap();
    assert_eq!(out, [0, 1, 2, 3], "the ring of the flusher only");
    drop(own);
    // SAFETY: as above.
    let mut other = unsafe { enter(&slots, 1) };
    let done = queue.flush_own(&mut other, &backend, &(), T, |_, page| out.push(page));
    assert_eq!(
        done,
        Ok(Flushed {
            flushed: false,
            released: 1,
            extra: ()
        })
    );
    assert_eq!(out, [0, 1, 2, 3, 10]);
    assert_eq!(backend.counts().flush_alls, 1);
}

#[test]
fn l1_entries_leave_within_the_timeout_and_a_poll() {
    let slots = slots();
    let queue = queue(&slots, 16);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    let poll = |slot: &mut SlotGuard<'_>, now| {
        queue
            .poll(slot, TimeNs(now), &backend, &(), T, |_, _| ())
            .unwrap()
            .released
    };
    assert_eq!(queue.next_deadline(), None);
    assert_eq!(poll(&mut slot, 50), 0);
    queue.push(&mut slot, 0).unwrap();
    assert_eq!(queue.next_deadline(), Some(TimeNs(50)), "poll at once");
    assert_eq!(poll(&mut slot, 100), 0);
    assert_eq!(queue.next_deadline(), Some(TimeNs(1100)));
    queue.push(&mut slot, 1).unwrap();
    assert_eq!(poll(&mut slot, 1099), 0);
    assert_eq!(poll(&mut slot, 1100), 2);
    assert_eq!(queue.next_deadline(), None);
    assert_eq!(poll(&mut slot, 5000), 0);
    assert_eq!(backend.counts().flush_alls, 1, "no flush without entries");
}

#[test]
fn l1_an_entry_queued_during_a_flush_keeps_the_time_it_was_seen() {
    let slots = slots();
    let queue = Arc::new(queue(&slots, 4));
    let model = Model::new(2);
    let mut slot = slots.enter_fallback();
    queue.push(&mut slot, model.unmap(0)).unwrap();
    let (q, s) = (queue.clone(), slots.clone());
    *model.meanwhile.lock() = Some(alloc::boxed::Box::new(move || {
        // SAFETY: the other guard of this test is the fallback's.
        let mut slot = unsafe { enter(&s, 1) };
        q.push(&mut slot, 1).unwrap();
        let backend = CountingBackend::new(&s);
        q.poll(&mut slot, TimeNs(70), &backend, &(), T, |_, _| ())
            .unwrap();
    }));
    queue.drain(&mut slot, &model, &(), T, |_, _| ()).unwrap();
    assert_eq!(queue.next_deadline(), Some(TimeNs(1070)));
}

#[test]
fn a11_a_failed_timed_flush_is_due_again_after_another_timeout() {
    let slots = slots();
    let queue = queue(&slots, 4);
    let model = Model::new(1);
    model.late.store(2, Ordering::SeqCst);
    let mut slot = slots.enter_fallback();
    queue.push(&mut slot, model.unmap(0)).unwrap();
    let mut out = 0;
    let mut results = Vec::new();
    for now in [0, 1000, 1500, 2000, 2500, 3000] {
        let result = queue.poll(&mut slot, TimeNs(now), &model, &(), T, |_, _| out += 1);
        results.push(result.is_ok());
    }
    assert_eq!(results, [true, false, true, false, true, true]);
    assert_eq!(out, 1);
    assert_eq!(
        queue.stats(),
        FlushStats {
            flushes: 1,
            failed: 2
        }
    );
}

#[test]
fn time_does_not_go_back() {
    let slots = slots();
    let queue = queue(&slots, 4);
    let backend = CountingBackend::new(&slots);
    let mut slot = slots.enter_fallback();
    let poll = |slot: &mut SlotGuard<'_>, now| {
        queue
            .poll(slot, TimeNs(now), &backend, &(), T, |_, _| ())
            .unwrap();
    };
    poll(&mut slot, u64::MAX);
    queue.push(&mut slot, 1).unwrap();
    poll(&mut slot, 5);
    assert_eq!(queue.next_deadline(), Some(TimeNs(u64::MAX - 1)));
}

#[test]
fn bad_input_69_queue_sizes() {
    for size in [0, 1, 3, 255, 65536, usize::MAX] {
        let config = QueueConfig {
            entries_per_slot: size,
            ..QueueConfig::default()
        };
        let error = FlushQueue::<(), ()>::new(config, slots()).err();
        assert_eq!(
            error,
            Some(QueueConfigError::BadSize {
                entries_per_slot: size
            })
        );
    }
}

#[test]
#[should_panic(expected = "slot guard of another table")]
fn bad_input_68_a_guard_of_another_table_is_refused() {
    let mine = slots();
    let queue = queue(&mine, 4);
    let others = slots();
    let _ = queue.push(&mut others.enter_fallback(), 1);
}

#[test]
fn bad_input_70_entries_left_in_a_dropped_queue_are_dropped_once() {
    let slots = slots();
    let tokens: Vec<_> = (0..6).map(Arc::new).collect();
    let queue: FlushQueue<_> = FlushQueue::new(QueueConfig::default(), slots.clone()).unwrap();
    let mut slot = slots.enter_fallback();
    for token in &tokens {
        queue.push(&mut slot, token.clone()).unwrap();
    }
    drop(queue);
    assert!(tokens.iter().all(|token| Arc::strong_count(token) == 1));
}

#[derive(Debug, Default, PartialEq)]
struct Names(Vec<&'static str>);

impl Merge for Names {
    fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// What is queued beside entries waits as they do: for a flush that begins
/// afterwards, and for one that succeeds.
#[test]
fn a2_l2_what_waits_beside_entries_waits_as_they_do() {
    let slots = slots();
    let queue: Arc<FlushQueue<usize, Names>> =
        Arc::new(FlushQueue::new(QueueConfig::default(), slots.clone()).unwrap());
    let model = Model::new(3);
    let mut slot = slots.enter_fallback();
    let room = queue.room(&mut slot).unwrap();
    room.push_with(model.unmap(0), Names(vec!["early"]));
    let (q, s) = (queue.clone(), slots.clone());
    *model.meanwhile.lock() = Some(alloc::boxed::Box::new(move || {
        // SAFETY: the other guard of this test is the fallback's.
        let mut slot = unsafe { enter(&s, 1) };
        q.room(&mut slot)
            .unwrap()
            .push_with(1, Names(vec!["during"]));
    }));
    model.late.store(1, Ordering::SeqCst);
    assert!(queue.drain(&mut slot, &model, &(), T, |_, _| ()).is_err());
    *model.meanwhile.lock() = None;
    assert!(queue.next_deadline().is_some());
    let done = queue.drain(&mut slot, &model, &(), T, |_, _| ()).unwrap();
    assert_eq!(done.released, 2);
    let mut names = done.extra.0;
    names.sort_unstable();
    assert_eq!(names, ["during", "early"], "neither lost by the failure");

    let room = queue.room(&mut slot).unwrap();
    room.push_with(2, Names(vec!["first"]));
    let (q, s) = (queue.clone(), slots.clone());
    *model.meanwhile.lock() = Some(alloc::boxed::Box::new(move || {
        // SAFETY: the other guard of this test is the fallback's.
        let mut slot = unsafe { enter(&s, 1) };
        q.room(&mut slot)
            .unwrap()
            .push_with(1, Names(vec!["second"]));
    }));
    let done = queue.drain(&mut slot, &model, &(), T, |_, _| ()).unwrap();
    assert_eq!(done.extra, Names(vec!["first"]));
    *model.meanwhile.lock() = None;
    let done = queue.drain(&mut slot, &model, &(), T, |_, _| ()).unwrap();
    assert_eq!(done.extra, Names(vec!["second"]));
    assert!(queue.is_empty());
}

/// What waits beside the entries, and when, survives a backend that unwinds.
#[test]
fn a11_a_flush_that_unwinds_loses_nothing() {
    #[derive(Debug, Default, PartialEq)]
    struct Pages(u64);
    impl Merge for Pages {
        fn merge(&mut self, other: Self) {
            self.0 += other.0;
        }
    }
    const WAIT: u64 = 10;
    let config = QueueConfig {
        entries_per_slot: 4,
        timeout_ns: WAIT,
    };
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let queue: FlushQueue<usize, Pages> = FlushQueue::new(config, slots.clone()).unwrap();
    let model = Model::new(4);
    let mut slot = slots.enter_fallback();
    let room = queue.room(&mut slot).unwrap();
    room.push_with(model.unmap(0), Pages(3));
    let poll = |slot: &mut SlotGuard<'_>, now| {
        queue.poll(slot, TimeNs(now), &model, &(), T, |_, page| {
            assert!(!model.is_stale(page));
        })
    };
    assert_eq!(poll(&mut slot, 1), Ok(Flushed::default()));
    *model.meanwhile.lock() = Some(alloc::boxed::Box::new(|| panic!("the backend unwinds")));
    let unwound =
        std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| poll(&mut slot, 1 + WAIT)));
    assert!(unwound.is_err());
    assert_eq!(queue.next_deadline(), Some(TimeNs(1 + WAIT)));
    assert_eq!(
        queue.stats(),
        FlushStats {
            flushes: 0,
            failed: 1
        }
    );
    *model.meanwhile.lock() = None;
    let done = Flushed {
        flushed: true,
        released: 1,
        extra: Pages(3),
    };
    assert_eq!(poll(&mut slot, 1 + WAIT), Ok(done));
    assert_eq!(queue.next_deadline(), None);
}
