//! Switches under a running unmapper, in every interleaving up to the bound, on
//! the switch and the queue that ship. With it the ways to be wrong that Linux
//! met in August 2021, each of which the models must notice.

use alloc::sync::Arc as StdArc;

use dmabench_flushq::{
    BackendError, FlushQueue, Late, QueueConfig, Synced, Ticket, TlbBackend, TlbRange,
};
use dmabench_platform::{Fences, SlotGuard, Slots, Timeout};
use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    thread,
};

use super::*;

const PAGES: usize = 2;
const WAIT: Timeout = Timeout::DEFAULT;

type Queue = FlushQueue<usize>;

/// Pages whose translation a hostile TLB holds until an invalidation that finds
/// them unmapped.
struct Tlb {
    mapped: [AtomicBool; PAGES],
    cached: [AtomicBool; PAGES],
}

impl Tlb {
    fn invalidate_page(&self, page: usize) {
        if !self.mapped[page].load(Ordering::Relaxed) {
            self.cached[page].store(false, Ordering::Relaxed);
        }
    }
}

// SAFETY: `cached` is the model's only translations, and it is updated at once.
unsafe impl TlbBackend for Tlb {
    type Context = ();

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        _ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        unreachable!("the model names pages, not ranges")
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        (0..PAGES).for_each(|page| self.invalidate_page(page));
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
        // SAFETY: invalidations complete at once.
        Ok(unsafe { Synced::new(ticket) })
    }
}

/// A domain, as far as modes go: slot 0 unmaps, the fallback switches.
struct World {
    slots: StdArc<Slots>,
    switch: ModeSwitch<Queue>,
    tlb: Tlb,
    released: AtomicUsize,
}

impl World {
    fn new(lazy: bool, fault: Fault) -> Arc<Self> {
        let slots = StdArc::new(Slots::new(1, Fences::Symmetric).unwrap());
        let mut switch = if lazy {
            ModeSwitch::lazy(queue(&slots).unwrap())
        } else {
            ModeSwitch::strict()
        };
        switch.fault = fault;
        let yes = || [AtomicBool::new(true), AtomicBool::new(true)];
        Arc::new(World {
            slots,
            switch,
            tlb: Tlb {
                mapped: yes(),
                cached: yes(),
            },
            released: AtomicUsize::new(0),
        })
    }

    /// The addresses go back to the allocator.
    fn release(&self, page: usize) {
        assert!(
            !self.tlb.cached[page].load(Ordering::Relaxed),
            "released while a translation of it is cached"
        );
        self.released.fetch_add(1, Ordering::Relaxed);
    }

    /// One unmap, which reads the way once.
    fn unmap(&self, page: usize) {
        // SAFETY: one thread of each model unmaps.
        let mut slot = unsafe { self.slots.enter(Some(0)) }.unwrap();
        match self.switch.way() {
            Way::Strict => {
                self.tlb.mapped[page].store(false, Ordering::Relaxed);
                self.tlb.invalidate_page(page);
                self.release(page);
            }
            Way::Lazy(queue) => {
                let room = queue.room(&mut slot).unwrap();
                self.tlb.mapped[page].store(false, Ordering::Relaxed);
                room.push(page);
            }
            Way::Passthrough => unreachable!(),
        }
    }

    /// The race of 2021: whether to sync is decided by one look, what happens to
    /// the addresses by another.
    fn unmap_looking_twice(&self, page: usize) {
        // SAFETY: one thread of each model unmaps.
        let mut slot = unsafe { self.slots.enter(Some(0)) }.unwrap();
        let free_now = matches!(self.switch.way(), Way::Strict);
        self.tlb.mapped[page].store(false, Ordering::Relaxed);
        match self.switch.way() {
            Way::Strict => self.tlb.invalidate_page(page),
            Way::Lazy(queue) if !free_now => queue.push(&mut slot, page).unwrap(),
            _ => {}
        }
        if free_now {
            self.release(page);
        }
    }

    fn relax(&self) -> Result<(), RelaxError<()>> {
        let make = || queue(&self.slots).map_err(|_| ());
        self.switch.relax(|_| true, make)
    }

    fn tighten(&self) {
        if let Some(queue) = self.switch.tighten(|| self.slots.synchronize()) {
            self.drain(queue);
        }
    }

    fn drain(&self, queue: &Queue) {
        let mut slot = self.slots.enter_fallback();
        queue
            .drain(&mut slot, &self.tlb, &(), WAIT, |_, page| {
                self.release(page)
            })
            .unwrap();
    }

    /// Everything has come to rest.
    fn finish(&self, unmapped: usize) {
        if matches!(self.switch.way(), Way::Strict)
            && let Some(queue) = self.switch.queue()
        {
            assert!(queue.is_empty(), "entries left behind in a strict domain");
        }
        self.tighten();
        assert_eq!(self.released.load(Ordering::Relaxed), unmapped);
    }
}

fn queue(slots: &StdArc<Slots>) -> Result<Queue, dmabench_flushq::QueueConfigError> {
    let config = QueueConfig {
        entries_per_slot: 2,
        timeout_ns: 1000,
    };
    FlushQueue::new(config, slots.clone())
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// `unmap` on this thread while each of `others` runs on its own.
fn beside(
    world: &Arc<World>,
    unmap: impl FnOnce(&World),
    others: impl IntoIterator<Item = fn(&World)>,
) {
    let threads: alloc::vec::Vec<_> = (others.into_iter())
        .map(|other| {
            let world = world.clone();
            thread::spawn(move || other(&world))
        })
        .collect();
    unmap(world);
    for thread in threads {
        thread.join().unwrap();
    }
}

fn two_unmaps(world: &World) {
    world.unmap(0);
    world.unmap(1);
}

fn relax(world: &World) {
    world.relax().unwrap();
}

fn relax_under_unmaps(fault: Fault) {
    let world = World::new(false, fault);
    beside(&world, two_unmaps, [relax as fn(&World)]);
    world.finish(2);
}

#[test]
fn l4_loom_strict_to_lazy_under_unmaps() {
    check(3, || relax_under_unmaps(Fault::None));
}

#[test]
#[should_panic(expected = "released while a translation of it is cached")]
fn l4_loom_an_unmap_that_looks_twice_is_caught() {
    check(3, || {
        let world = World::new(false, Fault::None);
        beside(&world, |w| w.unmap_looking_twice(0), [relax as fn(&World)]);
    });
}

/// The flag seen before the queue exists.
#[test]
#[should_panic(expected = "a lazy way without a queue")]
fn l4_loom_the_flag_before_the_queue_is_caught() {
    check(3, || relax_under_unmaps(Fault::FlagFirst));
}

#[test]
#[should_panic]
fn l4_loom_the_flag_without_the_release_is_caught() {
    check(3, || relax_under_unmaps(Fault::PublishRelaxed));
}

/// Initialisation fails: nobody must ever see a lazy way.
fn relax_that_fails(fault: Fault) {
    let world = World::new(false, fault);
    let fail: fn(&World) = |world| {
        let failed: Result<(), RelaxError<&str>> =
            (world.switch).relax(|_| true, || Err("no memory"));
        assert_eq!(failed, Err(RelaxError::Make("no memory")));
    };
    beside(&world, two_unmaps, [fail]);
    assert_eq!(world.released.load(Ordering::Relaxed), 2, "both strict");
    world.finish(2);
}

#[test]
fn l4_loom_a_switch_that_fails_changes_nothing() {
    check(3, || relax_that_fails(Fault::None));
}

#[test]
#[should_panic(expected = "a lazy way without a queue")]
fn l4_loom_failing_after_the_flip_is_caught() {
    check(3, || relax_that_fails(Fault::FlagFirst));
}

fn tighten_under_unmaps(fault: Fault) {
    let world = World::new(true, fault);
    beside(&world, two_unmaps, [World::tighten as fn(&World)]);
    world.finish(2);
}

#[test]
fn l4_loom_lazy_to_strict_under_unmaps() {
    check(3, || tighten_under_unmaps(Fault::None));
}

#[test]
#[should_panic(expected = "entries left behind in a strict domain")]
fn l4_loom_without_the_grace_period_is_caught() {
    check(3, || tighten_under_unmaps(Fault::NoGrace));
}

fn relax_twice_at_once(fault: Fault) {
    let world = World::new(false, fault);
    let relax = relax as fn(&World);
    beside(&world, |w| w.unmap(0), [relax, relax]);
    world.finish(1);
}

#[test]
fn l4_loom_two_switches_to_lazy_at_once() {
    check(2, || relax_twice_at_once(Fault::None));
}

#[test]
#[should_panic]
fn l4_loom_two_switches_without_the_lock_are_caught() {
    check(2, || relax_twice_at_once(Fault::NoLock));
}

#[test]
fn l4_loom_one_switch_each_way_at_once() {
    check(2, || {
        let world = World::new(true, Fault::None);
        let switches = [World::tighten as fn(&World), relax];
        beside(&world, two_unmaps, switches);
        // Whichever came last; in a lazy domain an entry may wait.
        world.tighten();
        world.finish(2);
    });
}
