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

use dmabench_platform::Fences;

use super::*;
use crate::{BackendError, Synced, Ticket, TlbRange};

/// Pages whose translation a hostile TLB holds until an invalidation that sees
/// them unmapped: it walks the tables again at once.
struct Model {
    mapped: [AtomicBool; 2],
    cached: [AtomicBool; 2],
    released: AtomicUsize,
}

impl Model {
    fn new() -> Self {
        Model {
            mapped: [AtomicBool::new(true), AtomicBool::new(true)],
            cached: [AtomicBool::new(true), AtomicBool::new(true)],
            released: AtomicUsize::new(0),
        }
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

// SAFETY: `cached` is the model's only translations.
unsafe impl TlbBackend for Model {
    type Context = ();

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        _ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        unreachable!("a flush queue invalidates everything at once")
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        for (mapped, cached) in self.mapped.iter().zip(&self.cached) {
            cached.store(mapped.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(())
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(0))
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        _timeout: Timeout,
    ) -> Result<Synced, Late> {
        // SAFETY: `invalidate_all` completes at once.
        Ok(unsafe { Synced::new(ticket) })
    }
}

fn check(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

fn queue(slots: &StdArc<Slots>, fault: Fault) -> FlushQueue<usize> {
    let config = QueueConfig {
        entries_per_slot: 2,
        timeout_ns: 1000,
    };
    let mut queue = FlushQueue::new(config, slots.clone()).unwrap();
    queue.fault = fault;
    queue
}

const T: Timeout = Timeout::DEFAULT;

/// One thread unmaps two pages in slot 0, another drains in the fallback.
fn one_unmapper_one_flusher(fault: Fault) {
    let slots = StdArc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let queue = Arc::new(queue(&slots, fault));
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
        let queue = Arc::new(queue(&slots, Fault::None));
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
