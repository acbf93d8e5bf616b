//! Every interleaving of an unmapper and a flusher, on the code that ships.
//! With it two ways to be wrong, which the model must notice.

use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    thread,
};

use alloc::sync::Arc as StdArc;

use dmabench_platform::{Fences, Slots, sync::atomic::Ordering};

use super::{
    test_support::{AtOnce, T, Tlb, config},
    *,
};

/// Pages whose translation a hostile TLB holds until an invalidation that sees
/// them unmapped: it walks the tables again at once.
struct Model {
    mapped: [AtomicBool; 2],
    cached: [AtomicBool; 2],
    released: AtomicUsize,
}

impl Model {
    fn new() -> AtOnce<Self> {
        AtOnce(Model {
            mapped: [AtomicBool::new(true), AtomicBool::new(true)],
            cached: [AtomicBool::new(true), AtomicBool::new(true)],
            released: AtomicUsize::new(0),
        })
    }

    fn release(&self, page: usize) {
        // SeqCst is not needed for the assertion: `cached` is written by the
        // flusher under the lock that is held here too.
        assert!(
            !self.cached[page].load(Ordering::Relaxed),
            "released while a translation of it is cached"
        );
        self.released.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tlb for Model {
    fn forget(&self) {
        for (mapped, cached) in self.mapped.iter().zip(&self.cached) {
            cached.store(mapped.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

fn queue<R: Rings<usize>>(slots: &StdArc<Slots>, fault: Fault) -> FlushQueue<usize, (), R> {
    let mut queue = FlushQueue::new(config(2), slots.clone()).unwrap();
    queue.fault = fault;
    queue
}

/// One thread unmaps two pages in slot 0, another drains in the fallback.
fn one_unmapper_one_flusher(fault: Fault) {
    let slots = StdArc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let queue: Arc<FlushQueue<usize>> = Arc::new(queue(&slots, fault));
    let model = Arc::new(Model::new());
    let unmapper = {
        let (slots, queue, model) = (slots.clone(), queue.clone(), model.clone());
        thread::spawn(move || {
            for page in 0..2 {
                // SAFETY: only this thread enters slot 0.
                let mut slot = unsafe { slots.enter(Some(0)) }.unwrap();
                model.mapped[page].store(false, Ordering::Relaxed);
                queue.push(&mut slot, page).unwrap();
            }
        })
    };
    let mut slot = slots.enter_fallback();
    queue
        .drain(&mut slot, &*model, &(), T, |_, page| model.release(page))
        .unwrap();
    drop(slot);
    unmapper.join().unwrap();
    if fault == Fault::None {
        let mut slot = slots.enter_fallback();
        queue
            .drain(&mut slot, &*model, &(), T, |_, page| model.release(page))
            .unwrap();
        assert_eq!(model.released.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn l2_loom_one_unmapper_one_flusher() {
    check(None, || one_unmapper_one_flusher(Fault::None));
}

#[test]
#[should_panic(expected = "released while a translation of it is cached")]
fn l2_loom_without_the_release_store_is_caught() {
    check(None, || one_unmapper_one_flusher(Fault::PublishRelaxed));
}

#[test]
#[should_panic(expected = "released while a translation of it is cached")]
fn l2_loom_release_early_is_caught() {
    check(None, || one_unmapper_one_flusher(Fault::SnapshotLate));
}

/// The owner finds its ring full while a timer drains: two flushers.
#[test]
fn l2_loom_full_ring_against_timer() {
    check(None, || {
        let slots = StdArc::new(Slots::new(1, Fences::Symmetric).unwrap());
        let queue: Arc<FlushQueue<usize>> = Arc::new(queue(&slots, Fault::None));
        let model = Arc::new(Model::new());
        let timer = {
            let (slots, queue, model) = (slots.clone(), queue.clone(), model.clone());
            thread::spawn(move || {
                let mut slot = slots.enter_fallback();
                queue
                    .drain(&mut slot, &*model, &(), T, |_, page| model.release(page))
                    .unwrap();
            })
        };
        // SAFETY: only this thread enters slot 0.
        let mut slot = unsafe { slots.enter(Some(0)) }.unwrap();
        for page in 0..2 {
            model.mapped[page].store(false, Ordering::Relaxed);
            queue.push(&mut slot, page).unwrap();
        }
        if queue.room(&mut slot).is_none() {
            queue
                .flush_own(&mut slot, &*model, &(), T, |_, page| model.release(page))
                .unwrap();
        }
        assert!(queue.room(&mut slot).is_some());
        timer.join().unwrap();
        queue
            .drain(&mut slot, &*model, &(), T, |_, page| model.release(page))
            .unwrap();
        assert_eq!(model.released.load(Ordering::Relaxed), 2);
    });
}

/// Two unmappers on the one ring, and a flusher: positions are taken in one
/// order and may be filled in the other. The flusher is spawned last, so that
/// the first execution has it after the unmappers: loom 0.7 forgets its look at
/// the tail when an unmapper looks too, and would never try that order.
fn one_ring(fault: Fault) {
    let slots = StdArc::new(Slots::new(2, Fences::Symmetric).unwrap());
    let queue: Arc<SingleQueue<usize>> = Arc::new(queue(&slots, fault));
    let model = Arc::new(Model::new());
    let unmap = |number: usize| {
        let (slots, queue, model) = (slots.clone(), queue.clone(), model.clone());
        move || {
            // SAFETY: one thread for each number.
            let mut slot = unsafe { slots.enter(Some(number)) }.unwrap();
            let room = queue.take_room(&mut slot).unwrap();
            model.mapped[number].store(false, Ordering::Relaxed);
            room.push(number);
        }
    };
    let flush = {
        let (slots, queue, model) = (slots.clone(), queue.clone(), model.clone());
        move || {
            let mut slot = slots.enter_fallback();
            queue
                .drain(&mut slot, &*model, &(), T, |_, page| model.release(page))
                .unwrap();
        }
    };
    let second = thread::spawn(unmap(1));
    let flusher = thread::spawn(flush.clone());
    unmap(0)();
    second.join().unwrap();
    flusher.join().unwrap();
    flush();
    assert_eq!(model.released.load(Ordering::Relaxed), 2);
}

#[test]
fn l2_loom_one_ring_two_unmappers_one_flusher() {
    check(Some(2), || one_ring(Fault::None));
}

#[test]
#[should_panic(expected = "Concurrent read and write accesses")]
fn l2_loom_one_ring_without_the_release_store_is_caught() {
    check(Some(2), || one_ring(Fault::PublishRelaxed));
}

#[test]
#[should_panic(expected = "released while a translation of it is cached")]
fn l2_loom_one_ring_release_early_is_caught() {
    check(Some(2), || one_ring(Fault::SnapshotLate));
}

/// Two producers, and places for one more entry than they push while a consumer
/// takes some out: nothing is lost, doubled or torn.
#[test]
fn a10_loom_one_ring_keeps_every_entry() {
    check(Some(3), || {
        let ring = Arc::new(super::shared::SharedRing::new(2).unwrap());
        let push = |number: usize| {
            let ring = ring.clone();
            move || {
                let Some(position) = ring.take() else {
                    return false;
                };
                // SAFETY: `take` returned the position to this thread.
                unsafe { ring.fill(position, Some(number), Ordering::Release) };
                true
            }
        };
        let threads = [1, 2].map(|n| thread::spawn(push(n)));
        let pushed_here = push(4)();
        let mut sum = 0;
        let mut taken = 0;
        let filled = ring.filled(0);
        while taken < filled {
            // SAFETY: this thread is the only consumer, in order, below `filled`.
            sum += unsafe { ring.pop(taken) }.unwrap();
            taken += 1;
        }
        let mut expected = if pushed_here { 4 } else { 0 };
        for (number, thread) in [1, 2].into_iter().zip(threads) {
            if thread.join().unwrap() {
                expected += number;
            }
        }
        let filled = ring.filled(taken);
        assert_eq!(filled, ring.tail());
        for position in taken..filled {
            // SAFETY: as above.
            sum += unsafe { ring.pop(position) }.unwrap();
        }
        assert_eq!(sum, expected);
        assert_eq!(ring.head(), ring.tail());
    });
}
