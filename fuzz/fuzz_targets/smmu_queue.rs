//! A hostile SMMU behind the command and event queues: every register reads as
//! the fuzzer likes, now and then as it should. The driver's side neither panics
//! nor waits for ever, `PROD` never goes back nor more than a queue ahead, tickets
//! only grow, and nothing succeeds on a queue that has stopped.

#![no_main]

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dmabench_pgtable::HeapTables;
use dmabench_platform::{TimeNs, Timeout};
use dmabench_smmu::{
    SmmuHost,
    format::{Command, Features, IdRegisters, registers as r},
    queue::{CommandQueue, EventQueue, GlobalErrors, QueueConfig},
};
use libfuzzer_sys::fuzz_target;

struct State {
    lies: Vec<u8>,
    next: usize,
    prod: u32,
    cons: u32,
    gerror: u32,
    gerrorn: u32,
    mask: u32,
}

impl State {
    fn byte(&mut self) -> u8 {
        let byte = self.lies.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        byte
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

struct Hostile {
    state: RefCell<State>,
    now: AtomicU64,
}

// SAFETY: one thread uses it.
unsafe impl Sync for Hostile {}

// SAFETY: not a real device: nothing is released on its word here.
unsafe impl SmmuHost for Hostile {
    fn read32(&self, offset: u32) -> u32 {
        let state = &mut *self.state.borrow_mut();
        let mood = state.byte();
        match offset {
            r::CMDQ_CONS => match mood {
                // Honest: consumes some of what is there.
                0..=159 => {
                    let waiting = state.prod.wrapping_sub(state.cons) & state.mask;
                    let taken = u32::from(mood % 5).min(waiting);
                    let taken = if mood < 60 { waiting } else { taken };
                    state.cons = state.cons.wrapping_add(taken) & state.mask;
                    state.cons
                }
                // Stopped with some code.
                160..=219 => {
                    state.gerror = state.gerrorn ^ 1;
                    state.cons | u32::from(mood & 7) << 24
                }
                _ => state.word(),
            },
            r::GERROR => match mood {
                0..=199 => state.gerror,
                _ => state.word(),
            },
            r::GERRORN => state.gerrorn,
            r::EVENTQ_PROD => state.word() & 0x8000_003f,
            _ => state.word(),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let state = &mut *self.state.borrow_mut();
        match offset {
            r::CMDQ_PROD => {
                let ahead = value.wrapping_sub(state.prod) & state.mask;
                assert!(ahead <= state.mask.div_ceil(2), "PROD went back");
                state.prod = value;
            }
            r::CMDQ_CONS => state.cons = value,
            r::GERRORN => state.gerrorn = value,
            _ => {}
        }
    }

    fn write64(&self, _: u32, _: u64) {}

    fn now(&self) -> TimeNs {
        TimeNs(self.now.fetch_add(1000, Ordering::Relaxed))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((header, lies)) = data.split_at_checked(40) else {
        return;
    };
    let lg2 = u32::from(header[0] % 7);
    let features = Features::decode(&IdRegisters {
        idr0: 0x0d44_101b,
        idr1: 0x0273_0010,
        idr3: 0x1414,
        idr5: 0x76,
    });
    let host = Arc::new(Hostile {
        state: RefCell::new(State {
            lies: lies.to_vec(),
            next: 0,
            prod: 0,
            cons: 0,
            gerror: 0,
            gerrorn: 0,
            mask: (2 << lg2) - 1,
        }),
        now: AtomicU64::new(0),
    });
    let errors = Arc::new(GlobalErrors::new(&host));
    let config = QueueConfig::default()
        .with_entries_lg2(lg2)
        .with_full_timeout(Timeout(20_000));
    let mut queue =
        CommandQueue::new(host.clone(), HeapTables, features, errors.clone(), config).unwrap();
    queue.write_pointers();
    let mut events = EventQueue::new(host.clone(), HeapTables, &features, 4).unwrap();
    let mut last = 0;
    for op in &header[1..] {
        let count = usize::from(op >> 3);
        match op & 7 {
            0..=2 => {
                let batch = vec![Command::TlbiNhAsid { vmid: 0, asid: 1 }.encode(); count];
                let _ = queue.push(&batch);
            }
            3 | 4 => {
                if let Ok(ticket) = queue.sync_begin() {
                    assert!(ticket >= last, "tickets only grow");
                    last = ticket;
                    let before = queue.stop_reason();
                    if queue.sync_wait(ticket, Timeout(20_000)).is_ok() {
                        assert_eq!(before, None, "nothing succeeds on a stopped queue");
                    }
                    // A second question has an answer, too.
                    let _ = queue.sync_done(ticket);
                }
            }
            5 => {
                let mut seen = 0;
                if let Ok(batch) = events.drain(&errors, count as u32, |_| seen += 1) {
                    assert_eq!(batch.events, seen);
                    assert!(seen <= 16);
                }
            }
            6 => queue.poll_errors(),
            _ => {
                queue.reset();
                let state = &mut *host.state.borrow_mut();
                assert_eq!(state.prod, state.cons, "empty after a reset");
                state.gerror = state.gerrorn;
            }
        }
    }
});
