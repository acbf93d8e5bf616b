//! A backend of one's own: an IOMMU that takes commands through a mailbox and
//! reports how many it has done.
//!
//!     cargo run --example custom_backend
#![allow(
    clippy::result_large_err,
    reason = "the error of an unmap holds what is left of it, without allocating"
)]

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use dmabench_dma::{Device, Direction, Domain, DomainConfig, Mode, Segment, UnmapError};
use dmabench_flushq::{BackendError, Late, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_platform::{Clock, Fences, MonotonicClock, PhysAddr, SlotGuard, Slots, Timeout};

/// What the hardware understands.
#[derive(Clone, Copy, Debug)]
enum Command {
    Invalidate { space: u16, first: u64, last: u64 },
    InvalidateSpace { space: u16 },
}

/// Step 1: the hardware. A thread stands for it; it takes commands in order.
struct Mailbox {
    queue: Mutex<mpsc::Sender<Command>>,
    sent: AtomicU64,
    done: Arc<AtomicU64>,
    clock: MonotonicClock,
}

impl Mailbox {
    fn new() -> Self {
        let (send, receive) = mpsc::channel();
        let done = Arc::new(AtomicU64::new(0));
        let counter = done.clone();
        thread::spawn(move || {
            // What it remembers: an address space and an address.
            let mut cached = BTreeSet::from([(7, 0xffff_f000), (8, 0xffff_f000)]);
            for command in receive {
                cached.retain(|(of, at)| match command {
                    Command::Invalidate { space, first, last } => {
                        *of != space || *at < first || *at > last
                    }
                    Command::InvalidateSpace { space } => *of != space,
                });
                counter.fetch_add(1, Ordering::Release);
            }
        });
        Mailbox {
            queue: Mutex::new(send),
            sent: AtomicU64::new(0),
            done,
            clock: MonotonicClock::new(),
        }
    }

    fn send(&self, command: Command) -> Result<(), BackendError> {
        // The lock makes the count and the order of the queue agree, and
        // (release) orders the caller's stores to the tables before it.
        let queue = self.queue.lock().map_err(|_| BackendError::Stopped)?;
        queue.send(command).map_err(|_| BackendError::Stopped)?;
        self.sent.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// Step 2: what names an address space.
#[derive(Clone, Copy, Debug)]
struct Space(u16);

// Step 3: the trait.
//
// SAFETY:
// * Order: the channel orders the caller's stores before the hardware's reads.
// * Coverage: first to last address of each range, all levels.
// * Completion: commands are done in the order they were sent, `sent` is counted
//   after sending, and `done` has reached the ticket's count.
// * Bounded: the wait ends at the timeout. Failure: a dead hardware thread is an
//   error, a poisoned lock too, so nothing unwinds.
// * No way back: nothing here knows the domain; the wait is in a pause.
unsafe impl TlbBackend for Mailbox {
    type Context = Space;

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        space: &Space,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        for range in ranges {
            self.send(Command::Invalidate {
                space: space.0,
                first: range.iova.0,
                last: range.last_byte().0,
            })?;
        }
        Ok(())
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        space: &Space,
    ) -> Result<(), BackendError> {
        self.send(Command::InvalidateSpace { space: space.0 })
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(self.sent.load(Ordering::Acquire)))
    }

    fn sync_wait(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        let wait = || {
            // The clock is read only by those who have to wait.
            let mut deadline = None;
            while self.done.load(Ordering::Acquire) < ticket.0 {
                let now = self.clock.now();
                if now > *deadline.get_or_insert(now.saturating_add_ns(timeout.0)) {
                    return Err(Late::TimedOut { after: timeout });
                }
                thread::yield_now();
            }
            // SAFETY: everything sent before the ticket is done.
            Ok(unsafe { Synced::new(ticket) })
        };
        match slot {
            // Nobody should have to wait for this section meanwhile.
            Some(slot) => slot.pause(wait),
            None => wait(),
        }
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let slots = Arc::new(Slots::new(4, Fences::detect())?);
    let config = DomainConfig::new(Mode::Strict).sync_timeout(Timeout(50_000_000));
    let domain = Domain::new(config, slots, Mailbox::new(), Space(7))?;
    let device = Device::new();

    for page in 0..100_u64 {
        let buffer = Segment {
            phys: PhysAddr(0x8000_0000 + page * 4096),
            len_bytes: 4096,
        };
        let mut result = domain
            .map(&device, buffer, Direction::Bidirectional)
            .map(|mapping| domain.unmap(mapping))?;
        // A late invalidation is no success: the buffer is not free until the
        // unmap has been finished.
        while let Err(UnmapError::NotInvalidated(unfinished)) = result {
            eprintln!("late: {}", unfinished.late());
            result = domain.finish(unfinished);
        }
        result?;
    }
    let done = domain.backend().done.load(Ordering::Acquire);
    println!("100 strict unmaps, {done} invalidations done by the hardware");
    assert_eq!(done, 100);
    domain.close()?;
    Ok(())
}
