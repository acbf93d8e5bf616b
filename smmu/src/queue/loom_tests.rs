//! All interleavings of producers and a consumer, up to a bound; and the same
//! with a flaw, which must be found.
//!
//! Waits are bounded by a clock that counts rounds, so a model ends even if the
//! consumer has.

use alloc::{boxed::Box, sync::Arc as Shared, vec::Vec};
use core::ptr::NonNull;
use std::sync::{
    Mutex as Plain,
    atomic::{AtomicU64 as PlainU64, Ordering::Relaxed as Plainly},
};

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{
    PhysAddr, TimeNs, Timeout,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use loom::thread;

use super::{command::Flaw, *};
use crate::{
    SmmuHost,
    format::{Command, Features, IdRegisters, RawCommand, registers as r},
};

/// Queue memory as loom's atomics.
#[derive(Clone)]
pub(super) struct Words(Shared<Box<[AtomicU64]>>);

// SAFETY: hands out its own words once per model; they live as long as any clone.
unsafe impl TableMemory for Words {
    fn alloc(&self, _: usize) -> Option<TableRef> {
        Some(TableRef {
            ptr: NonNull::from(&self.0[0]).cast(),
            phys: PhysAddr(0x1000),
        })
    }
    unsafe fn free(&self, _: TableRef, _: usize) {}
    unsafe fn phys_to_ptr(&self, _: PhysAddr) -> NonNull<u64> {
        NonNull::from(&self.0[0]).cast()
    }
}

pub(super) struct Device {
    prod: AtomicU32,
    cons: AtomicU32,
    gerror: AtomicU32,
    gerrorn: AtomicU32,
    words: Words,
    lg2: u32,
    rounds: PlainU64,
    /// Who made the device, and how often others looked at the clock.
    maker: thread::ThreadId,
    pub(super) rounds_of_others: PlainU64,
    executed: Plain<Vec<RawCommand>>,
    /// The next command with this ASID is found illegal, once.
    doomed: Plain<Option<u16>>,
    /// Commands are executed inside the register write, by whoever writes, one
    /// at a time: for models whose subject is the producers.
    eager: Option<Mutex<()>>,
}

// SAFETY: registers with acquire and release accesses, as the trait demands.
unsafe impl SmmuHost for Device {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            r::CMDQ_CONS => self.cons.load(Ordering::Acquire),
            r::GERROR => self.gerror.load(Ordering::Acquire),
            r::GERRORN => self.gerrorn.load(Ordering::Acquire),
            _ => 0,
        }
    }
    fn write32(&self, offset: u32, value: u32) {
        match offset {
            r::CMDQ_PROD => self.prod.store(value, Ordering::Release),
            r::GERRORN => self.gerrorn.store(value, Ordering::Release),
            _ => return,
        }
        if let Some(one_at_a_time) = &self.eager {
            let _alone = one_at_a_time.lock();
            self.look();
        }
    }
    fn write64(&self, _: u32, _: u64) {}
    fn publish(&self) {}
    fn now(&self) -> TimeNs {
        if thread::current().id() != self.maker {
            self.rounds_of_others.fetch_add(1, Plainly);
        }
        TimeNs(self.rounds.fetch_add(1, Plainly))
    }
}

impl Device {
    /// Looks at `PROD` up to `looks` times and executes what is there.
    pub(super) fn consume(&self, looks: usize) {
        for _ in 0..looks {
            self.look();
            thread::yield_now();
        }
    }

    fn look(&self) {
        let prod = self.prod.load(Ordering::Acquire);
        let mut cons = self.cons.load(Ordering::Relaxed) & 0xff_ffff;
        let mask = (2 << self.lg2) - 1;
        let waiting = prod.wrapping_sub(cons) & mask;
        assert!(
            waiting <= 1 << self.lg2,
            "PROD moved backwards or a lap ahead"
        );
        while cons != prod {
            if self.gerror.load(Ordering::Relaxed) != self.gerrorn.load(Ordering::Acquire) {
                break;
            }
            let slot = (cons & ((1 << self.lg2) - 1)) as usize;
            let command = [0, 1].map(|word| self.words.0[2 * slot + word].load(Ordering::Relaxed));
            assert_ne!(
                command,
                [0, 0],
                "an entry was published before it was written"
            );
            let asid = (command[0] >> 48) as u16;
            let doomed = &mut *self.doomed.lock().unwrap();
            if asid != 0 && *doomed == Some(asid) {
                *doomed = None;
                self.cons.store(cons | 1 << 24, Ordering::Release);
                let gerror = self.gerror.load(Ordering::Relaxed);
                self.gerror
                    .store(gerror ^ r::GERROR_CMDQ, Ordering::Release);
                break;
            }
            self.executed.lock().unwrap().push(command);
            // Taken out, so that an old entry met again is noticed.
            for word in 0..2 {
                self.words.0[2 * slot + word].store(0, Ordering::Relaxed);
            }
            cons = (cons + 1) & mask;
            self.cons.store(cons, Ordering::Release);
        }
    }

    pub(super) fn count(&self, command: RawCommand) -> usize {
        let executed = self.executed.lock().unwrap();
        executed.iter().filter(|&&c| c == command).count()
    }

    fn position(&self, command: RawCommand) -> Option<usize> {
        self.executed
            .lock()
            .unwrap()
            .iter()
            .position(|c| *c == command)
    }
}

pub(super) type Queue = CommandQueue<Shared<Device>, Words>;

pub(super) fn asid(n: u16) -> RawCommand {
    Command::TlbiNhAsid { vmid: 0, asid: n }.encode()
}

const HEAL: RawCommand = Command::TlbiNsnhAll.encode();
const ROUNDS: Timeout = Timeout(6);

pub(super) fn make(lg2: u32, flaw: Flaw) -> (Shared<Device>, Arc<Queue>) {
    make_with(lg2, flaw, ROUNDS, None)
}

/// Executes inside the register write.
fn make_eager(lg2: u32, flaw: Flaw) -> (Shared<Device>, Arc<Queue>) {
    make_with(lg2, flaw, ROUNDS, Some(Mutex::new(())))
}

pub(super) fn make_with(
    lg2: u32,
    flaw: Flaw,
    full: Timeout,
    eager: Option<Mutex<()>>,
) -> (Shared<Device>, Arc<Queue>) {
    let words = (0..2_usize << lg2).map(|_| AtomicU64::new(0)).collect();
    let words = Words(Shared::new(words));
    let device = Shared::new(Device {
        prod: AtomicU32::new(0),
        cons: AtomicU32::new(0),
        gerror: AtomicU32::new(0),
        gerrorn: AtomicU32::new(0),
        words: words.clone(),
        lg2,
        rounds: PlainU64::new(0),
        maker: thread::current().id(),
        rounds_of_others: PlainU64::new(0),
        executed: Plain::new(Vec::new()),
        doomed: Plain::new(None),
        eager,
    });
    let features = Features::decode(&IdRegisters {
        idr0: 0x0d44_101b,
        idr1: 0x0273_0010,
        idr3: 0x1414,
        idr5: 0x74,
    });
    let errors = Shared::new(GlobalErrors::new(&device));
    let config = QueueConfig::default()
        .with_entries_lg2(lg2)
        .with_full_timeout(full);
    let mut queue = CommandQueue::new(device.clone(), words, features, errors, config).unwrap();
    queue.flaw = flaw;
    queue.set_heal(Vec::from([HEAL]));
    (device, Arc::new(queue))
}

pub(super) fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// What one caller saw.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An error: nothing may be released.
    NotDone,
    Done,
    /// The sync returned although the invalidation was not executed, nor a heal
    /// batch.
    Lied,
}

/// Pushes one invalidation and syncs. (Judged by the main thread: loom does not
/// like panics elsewhere.)
fn invalidate(device: &Device, queue: &Queue, n: u16) -> Outcome {
    let ticket = queue.push(&[asid(n)]).and_then(|_| queue.sync_begin());
    wait_for(device, queue, n, ticket)
}

/// The same with one reservation for both.
pub(super) fn invalidate_at_once(device: &Device, queue: &Queue, n: u16) -> Outcome {
    wait_for(device, queue, n, queue.push_one_sync(asid(n)))
}

fn wait_for(device: &Device, queue: &Queue, n: u16, ticket: Result<u64, QueueError>) -> Outcome {
    let done = ticket.is_ok_and(|ticket| queue.sync_wait(ticket, ROUNDS).is_ok());
    let executed = device.position(asid(n)).is_some() || device.position(HEAL).is_some();
    match (done, executed) {
        (false, _) => Outcome::NotDone,
        (true, true) => Outcome::Done,
        (true, false) => Outcome::Lied,
    }
}

pub(super) fn judge(outcomes: &[Outcome]) {
    assert!(
        !outcomes.contains(&Outcome::Lied),
        "a sync returned before its invalidation was executed"
    );
}

/// Two producers of two commands each on two slots, and the consumer.
fn two_by_two(flaw: Flaw, preemptions: usize) {
    model(preemptions, move || {
        let (device, queue) = make(1, flaw);
        let producers: Vec<_> = [1, 3]
            .map(|n| {
                let queue = queue.clone();
                thread::spawn(move || queue.push(&[asid(n), asid(n + 1)]).is_ok())
            })
            .into_iter()
            .collect();
        device.consume(2);
        let pushed: Vec<_> = producers.into_iter().map(|p| p.join().unwrap()).collect();
        device.consume(1);
        let _ = queue.sync_begin();
        device.consume(2);
        for (pushed, n) in pushed.into_iter().zip([1, 3]) {
            let first = device.position(asid(n));
            let second = device.position(asid(n + 1));
            assert_eq!(first.is_some(), pushed, "a command was lost");
            assert_eq!(second, first.map(|at| at + 1), "a batch was torn apart");
        }
    });
}

#[test]
fn loom_two_producers_of_two_on_two_slots() {
    two_by_two(Flaw::None, 3);
}

#[test]
#[should_panic(expected = "a command was lost")]
fn loom_reserving_without_room_overwrites() {
    two_by_two(Flaw::NoRoomCheck, 2);
}

/// Three producers of one command each; each publishes.
fn three_by_one(flaw: Flaw, preemptions: usize) {
    model(preemptions, move || {
        let (device, queue) = make(3, flaw);
        let producers: Vec<_> = [1, 2]
            .map(|n| {
                let queue = queue.clone();
                thread::spawn(move || queue.push_sync(&[asid(n)]).unwrap())
            })
            .into_iter()
            .collect();
        queue.push_sync(&[asid(3)]).unwrap();
        device.consume(1);
        for producer in producers {
            producer.join().unwrap();
        }
        device.consume(1);
        for n in 1..=3 {
            assert!(
                device.position(asid(n)).is_some(),
                "a command was not published"
            );
        }
        assert_eq!(device.executed.lock().unwrap().len(), 6, "one sync each");
    });
}

#[test]
fn loom_three_producers_of_one() {
    three_by_one(Flaw::None, 1);
}

#[test]
#[should_panic(expected = "a command was not published")]
fn loom_batches_marked_ready_without_order_are_lost() {
    three_by_one(Flaw::ReadyRelaxed, 2);
}

#[test]
#[should_panic(expected = "an entry was published before it was written")]
fn loom_publishing_without_the_baton_is_seen() {
    three_by_one(Flaw::NoBaton, 2);
}

#[test]
#[should_panic(expected = "a command was not published")]
fn loom_laying_the_baton_down_blindly_is_seen() {
    three_by_one(Flaw::LayDownBlindly, 2);
}

/// Whoever has the baton and queues no sync carries it past a sync whose producer
/// has left.
fn urgent_behind_another(flaw: Flaw) {
    model(3, move || {
        let (device, queue) = make(3, flaw);
        let other = {
            let queue = queue.clone();
            thread::spawn(move || queue.push(&[asid(1)]).is_ok())
        };
        queue.push_sync(&[asid(2)]).unwrap();
        let pushed = other.join().unwrap();
        device.consume(1);
        assert!(pushed && device.position(asid(2)).is_some(), "left behind");
    });
}

#[test]
fn loom_a_sync_behind_a_slow_producer_is_published() {
    urgent_behind_another(Flaw::None);
}

#[test]
#[should_panic(expected = "left behind")]
fn loom_forgetting_that_a_batch_is_urgent_is_seen() {
    urgent_behind_another(Flaw::ForgetUrgent);
}

/// One slot, three commands: every position is a wrap.
#[test]
fn loom_wrap_on_one_slot() {
    model(4, || {
        let (device, queue) = make(0, Flaw::None);
        let producer = {
            let (queue, device) = (queue.clone(), device.clone());
            thread::spawn(move || {
                let first = invalidate(&device, &queue, 1);
                [first, invalidate(&device, &queue, 2)]
            })
        };
        device.consume(5);
        judge(&producer.join().unwrap());
    });
}

/// Two callers begin syncs at the same time; one may use the other's.
fn shared_sync(flaw: Flaw) {
    model(3, move || {
        let (device, queue) = make_eager(3, flaw);
        let other = {
            let (queue, device) = (queue.clone(), device.clone());
            thread::spawn(move || invalidate(&device, &queue, 1))
        };
        let own = invalidate(&device, &queue, 2);
        let both = [own, other.join().unwrap()];
        judge(&both);
        assert!(both == [Outcome::Done; 2], "a willing consumer");
    });
}

#[test]
fn loom_shared_sync() {
    shared_sync(Flaw::None);
}

/// The same with one reservation for invalidation and sync.
#[test]
fn loom_invalidations_and_syncs_at_once() {
    model(3, move || {
        let (device, queue) = make_eager(3, Flaw::None);
        let other = {
            let (queue, device) = (queue.clone(), device.clone());
            thread::spawn(move || invalidate_at_once(&device, &queue, 1))
        };
        let own = invalidate_at_once(&device, &queue, 2);
        let both = [own, other.join().unwrap()];
        judge(&both);
        assert!(both == [Outcome::Done; 2], "a willing consumer");
        assert_eq!(device.executed.lock().unwrap().len(), 4, "one sync each");
    });
}

#[test]
#[should_panic(expected = "a sync returned before its invalidation was executed")]
fn loom_sharing_a_sync_that_lies_before_is_seen() {
    shared_sync(Flaw::ShareEarlier);
}

/// A command is found illegal while two callers sync.
fn error_recovery(flaw: Flaw) {
    model(2, move || {
        let (device, queue) = make_eager(3, flaw);
        *device.doomed.lock().unwrap() = Some(1);
        let other = {
            let (queue, device) = (queue.clone(), device.clone());
            thread::spawn(move || invalidate(&device, &queue, 1))
        };
        let own = invalidate(&device, &queue, 2);
        judge(&[own, other.join().unwrap()]);
        let ticket = queue.sync_begin().unwrap();
        let first = queue.sync_wait(ticket, ROUNDS);
        // It may have begun before the heal batch.
        let ticket = queue.sync_begin().unwrap();
        assert!(first.is_ok() || queue.sync_wait(ticket, ROUNDS).is_ok());
        assert!(device.position(asid(1)).is_none(), "it was illegal");
        assert!(
            device.position(HEAL).is_some(),
            "what was lost was made up for"
        );
    });
}

#[test]
fn loom_error_recovery() {
    error_recovery(Flaw::None);
}

#[test]
#[should_panic(expected = "a sync returned before its invalidation was executed")]
fn loom_forgetting_what_was_lost_is_seen() {
    error_recovery(Flaw::ForgetLoss);
}
