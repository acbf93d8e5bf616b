//! Models of a full queue: positions that were taken without room, the baton, and
//! time.

use alloc::sync::Arc as Shared;
use std::sync::atomic::Ordering::Relaxed as Plainly;

use dmabench_platform::{Timeout, sync::Arc};
use loom::thread;

use super::{
    command::Flaw,
    loom_tests::{Device, Queue, asid, invalidate_at_once, judge, make, make_with, model},
    *,
};
use crate::format::Command;

fn spawn_push(queue: &Arc<Queue>, n: u16) -> thread::JoinHandle<Result<u64, QueueError>> {
    let queue = queue.clone();
    thread::spawn(move || queue.push(&[asid(n)]))
}

/// Lets the device execute what was queued, and compares with what was promised.
fn settle(device: &Shared<Device>, queue: &Queue, pushed: &[(u16, Result<u64, QueueError>)]) {
    device.consume(1);
    // Publishes the rest, if there is room for a sync or not.
    let _ = queue.sync_begin();
    device.consume(2);
    for &(n, pushed) in pushed {
        let executed = device.count(asid(n));
        assert_eq!(
            executed,
            usize::from(pushed.is_ok()),
            "a command was lost or doubled"
        );
    }
}

/// Two producers find a full queue while the consumer makes room: whoever keeps
/// positions has them alone.
fn two_in_a_full_queue(flaw: Flaw, preemptions: usize) {
    model(preemptions, move || {
        let (device, queue) = make_with(1, flaw, Timeout(0), None);
        queue.push_sync(&[asid(9)]).unwrap();
        let one = spawn_push(&queue, 1);
        let two = spawn_push(&queue, 2);
        device.consume(2);
        let pushed = [(1, one.join().unwrap()), (2, two.join().unwrap())];
        if let [(_, Ok(one)), (_, Ok(two))] = pushed {
            assert_ne!(one, two, "a position was given to two");
        }
        settle(&device, &queue, &pushed);
    });
}

#[test]
fn loom_two_producers_in_a_full_queue() {
    // Two preemptions hold as well, and take a minute.
    two_in_a_full_queue(Flaw::None, 1);
}

#[test]
#[should_panic(expected = "a position was given to two")]
fn loom_giving_back_what_is_not_last_is_seen() {
    two_in_a_full_queue(Flaw::GiveBackBlindly, 2);
}

/// An invalidation waits for a publisher. One thread publishes because it syncs,
/// another because it needs room.
fn two_publishers(flaw: Flaw, preemptions: usize) {
    model(preemptions, move || {
        let (device, queue) = make(1, flaw);
        let waiting = queue.push(&[asid(9)]);
        let sync = {
            let queue = queue.clone();
            thread::spawn(move || queue.push_sync(&[]).is_ok())
        };
        let one = spawn_push(&queue, 1);
        device.consume(2);
        let synced = sync.join().unwrap();
        let pushed = [(9, waiting), (1, one.join().unwrap())];
        settle(&device, &queue, &pushed);
        let syncs = device.count(Command::SYNC.encode());
        assert!(syncs >= usize::from(synced), "a sync was lost");
    });
}

#[test]
fn loom_a_sync_and_a_full_queue_publish() {
    two_publishers(Flaw::None, 3);
}

/// Strict unmaps: two callers, one reservation each, in a queue that holds one
/// pair.
#[test]
fn loom_invalidations_and_syncs_at_once_on_two_slots() {
    model(3, || {
        let (device, queue) = make(1, Flaw::None);
        let other = {
            let (queue, device) = (queue.clone(), device.clone());
            thread::spawn(move || invalidate_at_once(&device, &queue, 1))
        };
        device.consume(2);
        let own = invalidate_at_once(&device, &queue, 2);
        device.consume(1);
        judge(&[own, other.join().unwrap()]);
    });
}

/// Whoever waits for room and loses it to others again and again has the time of
/// one wait.
fn robbed(flaw: Flaw) {
    /// Clock readings that a wait of one round takes: to begin, at its end, behind
    /// it.
    const READINGS: u64 = 3;
    model(2, move || {
        let (device, queue) = make_with(0, flaw, Timeout(1), None);
        queue.push_sync(&[]).unwrap();
        let victim = spawn_push(&queue, 1);
        for _ in 0..2 {
            device.consume(1);
            let _ = queue.push_sync(&[]);
        }
        let pushed = [(1, victim.join().unwrap())];
        let readings = device.rounds_of_others.load(Plainly);
        assert!(readings <= READINGS, "the time began anew");
        settle(&device, &queue, &pushed);
    });
}

#[test]
fn loom_a_wait_for_room_has_one_timeout() {
    robbed(Flaw::None);
}

#[test]
#[should_panic(expected = "the time began anew")]
fn loom_a_fresh_timeout_for_each_attempt_is_seen() {
    robbed(Flaw::FreshTimeout);
}
