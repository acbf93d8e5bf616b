use alloc::{sync::Arc, vec, vec::Vec};
use std::thread;

use dmabench_pgtable::HeapTables;
use dmabench_platform::Timeout;

use super::{
    testing::{Fate, TestDevice},
    *,
};
use crate::format::{
    Command, Features, IdRegisters, RawCommand, features::tests::QEMU_NESTED, registers as r,
};

const MS: Timeout = Timeout(1_000_000);

type Queue = CommandQueue<Arc<TestDevice>, HeapTables>;

/// For threads that a scheduler may leave alone for long.
const PATIENT: Timeout = Timeout(u64::MAX);

fn make_with(lg2: u32, ids: IdRegisters, full: Timeout) -> (Arc<TestDevice>, Queue) {
    let device = TestDevice::new(ids);
    let features = Features::decode(&ids);
    let errors = Arc::new(GlobalErrors::new(&device));
    let config = QueueConfig::default()
        .with_entries_lg2(lg2)
        .with_full_timeout(full);
    let mut queue =
        CommandQueue::new(device.clone(), HeapTables, features, errors, config).unwrap();
    crate::SmmuHost::write64(&*device, r::CMDQ_BASE, queue.base_register());
    queue.write_pointers();
    (device, queue)
}

fn make(lg2: u32) -> (Arc<TestDevice>, Queue) {
    make_with(lg2, QEMU_NESTED, MS)
}

fn asid(n: u16) -> RawCommand {
    Command::TlbiNhAsid { vmid: 0, asid: n }.encode()
}

const SYNC: RawCommand = Command::SYNC.encode();

#[test]
fn bad_input_53_sizes_of_queues() {
    let device = TestDevice::new(QEMU_NESTED);
    let features = Features::decode(&QEMU_NESTED);
    let errors = Arc::new(GlobalErrors::new(&device));
    let make = |lg2, features| {
        CommandQueue::new(
            device.clone(),
            HeapTables,
            features,
            errors.clone(),
            QueueConfig::default().with_entries_lg2(lg2),
        )
        .map(|q| q.capacity())
    };
    assert_eq!(make(0, features), Ok(1));
    assert_eq!(make(19, features), Ok(1 << 19));
    assert_eq!(
        make(20, features),
        Err(QueueSetupError::Size { lg2: 20, max: 19 })
    );
    assert_eq!(
        make(31, features),
        Err(QueueSetupError::Size { lg2: 31, max: 19 })
    );
    let small = Features {
        cmdq_lg2_max: 7,
        ..features
    };
    assert_eq!(
        make(8, small),
        Err(QueueSetupError::Size { lg2: 8, max: 7 })
    );
}

/// Memory whose addresses are a constant off.
struct Crooked(u64);

// SAFETY: as `HeapTables`, whose pointers it hands out; only queues use it, and
// they never ask for a pointer.
unsafe impl dmabench_pgtable::TableMemory for Crooked {
    fn alloc(&self, size: usize) -> Option<dmabench_pgtable::TableRef> {
        let mut table = HeapTables.alloc(size)?;
        table.phys.0 += self.0;
        Some(table)
    }
    unsafe fn free(&self, mut table: dmabench_pgtable::TableRef, size: usize) {
        table.phys.0 -= self.0;
        // SAFETY: from `alloc` above.
        unsafe { HeapTables.free(table, size) };
    }
    unsafe fn phys_to_ptr(&self, phys: dmabench_platform::PhysAddr) -> core::ptr::NonNull<u64> {
        // SAFETY: as promised by the caller.
        unsafe { HeapTables.phys_to_ptr(dmabench_platform::PhysAddr(phys.0 - self.0)) }
    }
}

#[test]
fn bad_input_54_base_misaligned_or_beyond_52_bits() {
    let device = TestDevice::new(QEMU_NESTED);
    let features = Features::decode(&QEMU_NESTED);
    for offset in [64, 1 << 52] {
        let errors = Arc::new(GlobalErrors::new(&device));
        let commands = CommandQueue::new(
            device.clone(),
            Crooked(offset),
            features,
            errors,
            QueueConfig::default(),
        );
        assert!(matches!(commands, Err(QueueSetupError::Base { .. })));
        let events = EventQueue::new(device.clone(), Crooked(offset), &features, 4);
        assert!(matches!(events, Err(QueueSetupError::Base { .. })));
    }
}

#[test]
fn commands_arrive_in_order_at_every_size_and_offset() {
    for lg2 in [0, 1, 2, 3, 5, 8] {
        let (device, queue) = make(lg2);
        let mut sent = Vec::new();
        // More than four laps of each size, in batches of 1 to 7.
        for round in 0..(5_u16 << lg2).max(40) {
            let batch: Vec<_> = (0..round % 7 + 1).map(|i| asid(round * 8 + i)).collect();
            queue.push(&batch).unwrap();
            sent.extend(batch);
            if round % 3 == 0 {
                let ticket = queue.sync_begin().unwrap();
                sent.push(SYNC);
                assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
            }
        }
        let ticket = queue.sync_begin().unwrap();
        queue.sync_wait(ticket, MS).unwrap();
        let mut executed = device.take_executed();
        if executed.len() > sent.len() {
            executed.pop();
        }
        assert_eq!(executed, sent, "2^{lg2}");
        assert_eq!(queue.faults(), QueueFaults::default());
    }
}

#[test]
fn bad_input_55_a_batch_longer_than_the_queue_is_split() {
    for lg2 in [0, 2, 4] {
        let (device, queue) = make(lg2);
        let batch: Vec<_> = (0..100).map(asid).collect();
        queue.push(&batch).unwrap();
        let ticket = queue.push_sync(&batch).unwrap();
        queue.sync_wait(ticket, MS).unwrap();
        let mut expected = batch.clone();
        expected.extend(batch);
        expected.push(SYNC);
        assert_eq!(device.take_executed(), expected);
    }
}

#[test]
fn an_invalidation_and_its_sync_are_published_together_and_syncs_are_shared() {
    let (device, queue) = make(4);
    device
        .eager
        .store(false, core::sync::atomic::Ordering::Relaxed);
    queue.push(&[asid(1)]).unwrap();
    assert_eq!(device.get(r::CMDQ_PROD), 0, "rides with the sync");
    let first = queue.sync_begin().unwrap();
    assert_eq!(device.get(r::CMDQ_PROD), 2);
    assert_eq!(queue.sync_begin().unwrap(), first, "nothing new to cover");
    queue.push(&[asid(2)]).unwrap();
    let second = queue.sync_begin().unwrap();
    assert!(second > first);
    assert_eq!(queue.sync_done(first), Ok(false));
    device.run(2);
    assert_eq!(queue.sync_done(first), Ok(true));
    assert_eq!(
        queue.sync_done(second),
        Ok(false),
        "the consumer passed a TLBI only"
    );
    device.run(2);
    assert_eq!(queue.sync_done(second), Ok(true));
    assert_eq!(device.take_executed(), [asid(1), SYNC, asid(2), SYNC]);
}

#[test]
fn bad_input_62_a_consumer_that_never_completes_times_out_and_can_be_waited_for_again() {
    let (device, queue) = make(2);
    device
        .eager
        .store(false, core::sync::atomic::Ordering::Relaxed);
    queue.push(&[asid(1)]).unwrap();
    let ticket = queue.sync_begin().unwrap();
    let timed_out = Err(WaitError::TimedOut { after: MS });
    assert_eq!(queue.sync_wait(ticket, MS), timed_out);
    assert_eq!(
        queue.sync_wait(ticket, Timeout(0)),
        Err(WaitError::TimedOut { after: Timeout(0) })
    );
    // A full queue is an error too, and does no harm.
    queue.push(&[asid(2), asid(3)]).unwrap();
    assert_eq!(queue.push(&[asid(4)]), Err(QueueError::Full { after: MS }));
    assert_eq!(device.get(r::CMDQ_PROD), 4, "what waits was published");
    device.run(100);
    assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
    queue.push(&[asid(4)]).unwrap();
    let ticket = queue.sync_begin().unwrap();
    device.run(100);
    assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
}

/// After an illegal command: no sync whose position is not behind the heal batch
/// succeeds, whoever waits (A11), and the queue goes on.
#[test]
fn bad_input_61_a11_illegal_at_any_position() {
    for lg2 in [0, 1, 2, 4] {
        for doomed in 0..12 {
            let (device, queue) = make(lg2);
            device.doom(doomed, Fate::Illegal, 1);
            let mut failed = 0;
            let mut passed = Vec::new();
            for n in 0..8 {
                queue.push(&[asid(n)]).unwrap();
                let ticket = queue.sync_begin().unwrap();
                match queue.sync_wait(ticket, MS) {
                    Ok(()) => passed.push(n),
                    Err(WaitError::Lost { code: 1 }) => failed += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(failed, 1, "2^{lg2}: command {doomed} was doomed");
            let executed = device.take_executed();
            for n in passed {
                assert!(
                    executed.contains(&asid(n)),
                    "a lost invalidation was called done"
                );
            }
            assert!(executed.contains(&Command::TlbiNsnhAll.encode()));
            assert_eq!((queue.faults().illegal, queue.faults().heals), (1, 1));
        }
    }
}

/// Someone else's sync behind a lost invalidation fails as well, even if it
/// began after the loss: the invalidation may be one that had returned.
#[test]
fn a11_a_lost_command_fails_later_syncs_until_it_is_made_up_for() {
    let (device, queue) = make(4);
    device
        .eager
        .store(false, core::sync::atomic::Ordering::Relaxed);
    queue.push(&[asid(1)]).unwrap();
    device.doom(0, Fate::Illegal, 1);
    let first = queue.sync_begin().unwrap();
    device.run(10);
    // Not noticed yet. A second caller begins its sync now.
    queue.push(&[asid(2)]).unwrap();
    let second = queue.sync_begin().unwrap();
    device
        .eager
        .store(true, core::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        queue.sync_wait(second, MS),
        Err(WaitError::Lost { code: 1 })
    );
    assert_eq!(queue.sync_wait(first, MS), Err(WaitError::Lost { code: 1 }));
    let third = queue.sync_begin().unwrap();
    assert_eq!(queue.sync_wait(third, MS), Ok(()), "behind the heal batch");
}

/// The heal batch has to wait for room in a queue that nobody empties: as long
/// as whoever waits for the sync, not as long as producers wait.
#[test]
fn bad_input_62_healing_a_full_queue_keeps_to_the_callers_time() {
    // Fifty times the caller's. (Each look at the clock is a microsecond of it, and
    // a yield of the processor: more would take minutes on a busy machine.)
    let long = Timeout(50 * MS.0);
    for lg2 in [0, 1, 2, 4] {
        let (device, queue) = make_with(lg2, QEMU_NESTED, long);
        queue.push(&[asid(1)]).unwrap();
        let ticket = queue.sync_begin().unwrap();
        device
            .eager
            .store(false, core::sync::atomic::Ordering::Relaxed);
        // The next command is lost, and the device stands still behind it.
        let met = device.take_executed().len() as u64;
        device.doom(met, Fate::Illegal, 1);
        for n in 0..queue.capacity() as u16 {
            queue.push(&[asid(n)]).unwrap();
        }
        queue.poll_errors();
        let full = queue.push(&[asid(9)]);
        assert_eq!(full, Err(QueueError::Full { after: long }));
        device.run(1);
        queue.poll_errors();
        let before = crate::SmmuHost::now(&*device).0;
        assert_eq!(
            queue.sync_wait(ticket, MS),
            Err(WaitError::TimedOut { after: MS })
        );
        let took = crate::SmmuHost::now(&*device).0 - before;
        assert!(took < 2 * MS.0, "2^{lg2}: {took} ns");
        // It moves again: the queue recovers within a caller's time, too.
        device
            .eager
            .store(true, core::sync::atomic::Ordering::Relaxed);
        device.run(u64::MAX);
        let lost = queue.sync_wait(ticket, MS);
        assert_eq!(lost, Err(WaitError::Lost { code: 1 }), "2^{lg2}");
        let ticket = queue.sync_begin().unwrap();
        assert_eq!(queue.sync_wait(ticket, MS), Ok(()), "2^{lg2}");
    }
}

#[test]
fn bad_input_61_aborts_are_retried_and_atc_timeouts_lose_what_they_covered() {
    let (device, queue) = make(3);
    device.doom(1, Fate::Abort, 2);
    queue.push(&[asid(1)]).unwrap();
    let ticket = queue.sync_begin().unwrap();
    assert_eq!(queue.sync_wait(ticket, MS), Ok(()), "fetched again");
    assert_eq!(queue.faults().fetch_aborts, 2);
    device.doom(3, Fate::AtcTimeout, 1);
    queue.push(&[asid(2)]).unwrap();
    let ticket = queue.sync_begin().unwrap();
    assert_eq!(
        queue.sync_wait(ticket, MS),
        Err(WaitError::Lost { code: 3 })
    );
    assert_eq!(queue.faults().atc_timeouts, 1);
    let ticket = queue.sync_begin().unwrap();
    assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
}

#[test]
fn bad_input_61_errors_that_repeat_or_are_unknown_stop_the_queue_until_reset() {
    for (fate, times, reason) in [
        (Fate::Abort, 99, StopReason::Repeated { code: 2 }),
        (Fate::Illegal, 99, StopReason::Repeated { code: 1 }),
        (Fate::AtcTimeout, 99, StopReason::Repeated { code: 3 }),
        (Fate::Unknown, 1, StopReason::UnknownError { code: 0x7f }),
    ] {
        let (device, mut queue) = make(3);
        device.doom(1, fate, times);
        queue.push(&[asid(1)]).unwrap();
        let ticket = queue.sync_begin().unwrap();
        assert_eq!(queue.sync_wait(ticket, MS), Err(WaitError::Stopped(reason)));
        assert_eq!(queue.stop_reason(), Some(reason));
        // Nothing succeeds any more, and nothing hangs.
        for _ in 0..20 {
            let again = queue.push(&[asid(2)]).and_then(|_| queue.sync_begin());
            match again {
                Ok(ticket) => {
                    assert_eq!(queue.sync_wait(ticket, MS), Err(WaitError::Stopped(reason)))
                }
                Err(error) => assert_eq!(error, QueueError::Stopped(reason)),
            }
        }
        device.doom(1, fate, 0);
        device.set(r::GERROR, device.get(r::GERRORN));
        queue.reset();
        let old = queue.sync_wait(ticket, MS);
        assert_eq!(old, Err(WaitError::Lost { code: 0 }));
        let ticket = queue.sync_begin().unwrap();
        assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
    }
}

#[test]
fn bad_input_60_impossible_consumer_indices_stop_the_queue() {
    // Capacity 4; two commands and a sync are out: 3 is the only end.
    for cons in [4, 5, 6, 7] {
        let (device, queue) = make(2);
        device
            .eager
            .store(false, core::sync::atomic::Ordering::Relaxed);
        let ticket = queue.push_sync(&[asid(1), asid(2)]).unwrap();
        device.set(r::CMDQ_CONS, cons);
        let corrupt = StopReason::Corrupt { cons };
        assert_eq!(
            queue.sync_wait(ticket, MS),
            Err(WaitError::Stopped(corrupt))
        );
        device.set(r::CMDQ_CONS, 3);
        assert!(
            queue.sync_wait(ticket, MS).is_err(),
            "once stopped, stopped"
        );
        let again = queue.push(&[asid(3), asid(4), asid(5)]);
        assert_eq!(again, Err(QueueError::Stopped(corrupt)));
    }
    // Backwards, after it was seen further on.
    let (device, queue) = make(2);
    for n in 0..3 {
        let ticket = queue.push_sync(&[asid(n)]).unwrap();
        assert_eq!(queue.sync_wait(ticket, MS), Ok(()));
    }
    device
        .eager
        .store(false, core::sync::atomic::Ordering::Relaxed);
    let ticket = queue.push_sync(&[]).unwrap();
    device.set(r::CMDQ_CONS, 3);
    assert_eq!(
        queue.sync_wait(ticket, MS),
        Err(WaitError::Stopped(StopReason::Corrupt { cons: 3 }))
    );
}

/// Found by fuzzing: a queue that stopped while a heal batch was out came back
/// when the batch completed.
#[test]
fn a11_a_queue_that_stops_while_healing_stays_stopped() {
    let (device, queue) = make(4);
    device
        .eager
        .store(false, core::sync::atomic::Ordering::Relaxed);
    device.doom(0, Fate::Illegal, 1);
    let ticket = queue.push_sync(&[asid(1)]).unwrap();
    device.run(9);
    let timed_out = Err(WaitError::TimedOut { after: MS });
    assert_eq!(
        queue.sync_wait(ticket, MS),
        timed_out,
        "the heal batch is out"
    );
    device.set(r::CMDQ_CONS, 0x1f);
    let corrupt = Err(WaitError::Stopped(StopReason::Corrupt { cons: 0x1f }));
    assert_eq!(queue.sync_wait(ticket, MS), corrupt);
    device.set(r::CMDQ_CONS, 0);
    device.run(99);
    for ticket in [ticket, ticket + 3, queue.sync_begin().unwrap_or(5)] {
        assert_eq!(queue.sync_wait(ticket, MS), corrupt);
    }
    assert_eq!(queue.faults().heals, 0);
}

#[test]
fn a9_many_producers_on_small_queues() {
    for lg2 in [1, 2, 4] {
        let (device, queue) = make_with(lg2, QEMU_NESTED, PATIENT);
        let per_thread = 400_u16;
        thread::scope(|scope| {
            for thread in 0..4_u16 {
                let queue = &queue;
                scope.spawn(move || {
                    for n in 0..per_thread {
                        let pair = [asid(thread << 12 | n), asid(thread << 12 | n)];
                        queue.push(&pair).unwrap();
                        let ticket = queue.sync_begin().unwrap();
                        assert_eq!(queue.sync_wait(ticket, PATIENT), Ok(()));
                    }
                });
            }
        });
        let executed = device.take_executed();
        let mut next = [0_u16; 4];
        let mut syncs = 0;
        let mut commands = executed.iter();
        while let Some(command) = commands.next() {
            if *command == SYNC {
                syncs += 1;
                continue;
            }
            let number = (command[0] >> 48) as u16;
            let (thread, n) = (usize::from(number >> 12), number & 0xfff);
            assert_eq!(n, next[thread], "in order");
            next[thread] += 1;
            assert_eq!(commands.next(), Some(command), "a batch is contiguous");
        }
        assert_eq!(next, [per_thread; 4]);
        assert!(syncs <= 4 * u32::from(per_thread));
    }
}

#[test]
fn the_published_index_never_moves_backwards() {
    let (device, queue) = make_with(4, QEMU_NESTED, PATIENT);
    let last = Arc::new(core::sync::atomic::AtomicU64::new(0));
    let seen = last.clone();
    // Eager execution happens inside the write of PROD: each call sees the
    // commands of that write only, in order.
    device.observe(move |_| {
        seen.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    });
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for n in 0..500 {
                    let ticket = queue.push_sync(&[asid(n)]).unwrap();
                    queue.sync_wait(ticket, PATIENT).unwrap();
                }
            });
        }
    });
    assert_eq!(last.load(core::sync::atomic::Ordering::Relaxed), 3000);
    assert_eq!(queue.stop_reason(), None);
}

fn event(sid: u64, code: u64) -> [u64; 4] {
    [code | sid << 32, 1 << 35 | 2 << 40, 0x1000, 0]
}

fn make_events(
    lg2: u32,
) -> (
    Arc<TestDevice>,
    GlobalErrors,
    EventQueue<Arc<TestDevice>, HeapTables>,
) {
    let device = TestDevice::new(QEMU_NESTED);
    let features = Features::decode(&QEMU_NESTED);
    let errors = GlobalErrors::new(&device);
    let mut queue = EventQueue::new(device.clone(), HeapTables, &features, lg2).unwrap();
    crate::SmmuHost::write64(&*device, r::EVENTQ_BASE, queue.base_register());
    queue.write_pointers();
    (device, errors, queue)
}

#[test]
fn bad_input_63_unknown_events_and_overflows_are_reported_counted_and_acknowledged() {
    let (device, errors, mut queue) = make_events(2);
    for round in 0..10_u64 {
        for n in 0..6 {
            device.event(&event(round << 8 | n, if n == 1 { 0x7f } else { 0x10 }));
        }
        let mut sids = vec![];
        let batch = queue
            .drain(&errors, 3, |e| sids.push(u64::from(e.sid)))
            .unwrap();
        assert_eq!((batch.events, batch.reserved), (3, 1));
        assert!(batch.lost && batch.more, "two did not fit, in each round");
        let rest = queue
            .drain(&errors, 9, |e| sids.push(e.sid.into()))
            .unwrap();
        assert_eq!((rest.events, rest.lost, rest.more), (1, false, false));
        let expected: Vec<_> = (0..4).map(|n| round << 8 | n).collect();
        assert_eq!(sids, expected);
    }
    // QEMU's way of saying that the queue was full.
    device.raise(r::GERROR_EVENTQ_ABT);
    assert!(queue.drain(&errors, 9, |_| ()).unwrap().lost);
    assert!(!queue.drain(&errors, 9, |_| ()).unwrap().lost);
}

#[test]
fn bad_input_64_an_impossible_producer_index_is_an_error_and_the_queue_goes_on() {
    let (device, errors, mut queue) = make_events(2);
    device.set(r::EVENTQ_PROD, 6);
    let error = queue.drain(&errors, 9, |_| panic!("no event")).unwrap_err();
    assert_eq!(error, EventQueueError { prod: 6, cons: 0 });
    device.event(&event(1, 0x10));
    assert_eq!(queue.drain(&errors, 9, |_| ()).unwrap().events, 1);
}
