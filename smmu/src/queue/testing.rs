//! A small consumer for the tests of queues and driver: registers, the command
//! queue executed inside the write of `PROD` or on demand, errors on request. It
//! keeps what it executed; it has no caches.

use alloc::{sync::Arc, vec::Vec};
use std::{boxed::Box, collections::BTreeMap};

use dmabench_platform::{
    TimeNs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    SmmuHost,
    format::{IdRegisters, RawCommand, registers as r},
};

/// What the device does when it meets a command at a position of its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Illegal,
    Abort,
    AtcTimeout,
    Unknown,
}

type Observer = Box<dyn FnMut(&RawCommand) + Send>;

#[derive(Default)]
struct Inner {
    registers: BTreeMap<u32, u32>,
    wide: BTreeMap<u32, u64>,
    executed: Vec<RawCommand>,
    fates: BTreeMap<u64, (Fate, u32)>,
    met: u64,
    /// Called with each command before it counts as executed.
    observer: Option<Observer>,
}

/// The device. `now` advances by 1000 ns with each call.
pub(crate) struct TestDevice {
    inner: Mutex<Inner>,
    now: AtomicU64,
    /// Commands are executed inside the write of `PROD`.
    pub(crate) eager: AtomicBool,
}

impl TestDevice {
    pub(crate) fn new(ids: IdRegisters) -> Arc<Self> {
        let mut inner = Inner::default();
        for (offset, value) in [
            (r::IDR0, ids.idr0),
            (r::IDR1, ids.idr1),
            (r::IDR3, ids.idr3),
            (r::IDR5, ids.idr5),
        ] {
            inner.registers.insert(offset, value);
        }
        Arc::new(TestDevice {
            inner: Mutex::new(inner),
            now: AtomicU64::new(0),
            eager: AtomicBool::new(true),
        })
    }

    pub(crate) fn get(&self, offset: u32) -> u32 {
        *self.inner.lock().registers.get(&offset).unwrap_or(&0)
    }

    pub(crate) fn set(&self, offset: u32, value: u32) {
        self.inner.lock().registers.insert(offset, value);
    }

    pub(crate) fn get_wide(&self, offset: u32) -> u64 {
        *self.inner.lock().wide.get(&offset).unwrap_or(&0)
    }

    /// The command that is met as number `at` (from 0, repeats counted) meets
    /// this fate `times` times.
    pub(crate) fn doom(&self, at: u64, fate: Fate, times: u32) {
        self.inner.lock().fates.insert(at, (fate, times));
    }

    pub(crate) fn take_executed(&self) -> Vec<RawCommand> {
        core::mem::take(&mut self.inner.lock().executed)
    }

    pub(crate) fn observe(&self, observer: impl FnMut(&RawCommand) + Send + 'static) {
        self.inner.lock().observer = Some(Box::new(observer));
    }

    /// Executes up to `count` commands.
    pub(crate) fn run(&self, count: u64) {
        let inner = &mut *self.inner.lock();
        for _ in 0..count {
            if !inner.step() {
                return;
            }
        }
    }

    /// Puts an event into the event queue as the SMMU does.
    pub(crate) fn event(&self, raw: &[u64; 4]) {
        let inner = &mut *self.inner.lock();
        let (base, lg2) = r::decode_queue_base(*inner.wide.get(&r::EVENTQ_BASE).unwrap());
        let prod = inner.read(r::EVENTQ_PROD);
        let cons = inner.read(r::EVENTQ_CONS);
        let index = r::QueueIndex::of(prod, lg2);
        if r::QueueIndex::of(cons, lg2).distance_to(index, lg2) == Some(1 << lg2) {
            // Overflow: toggle once, until it is acknowledged.
            if (prod ^ cons) >> 31 == 0 {
                inner.registers.insert(r::EVENTQ_PROD, prod ^ 1 << 31);
            }
            return;
        }
        for (word, value) in raw.iter().enumerate() {
            let at = base.0 + 32 * u64::from(index.slot(lg2)) + 8 * word as u64;
            word_at(at).store(value.to_le(), Ordering::Relaxed);
        }
        let next = index.advanced(1, lg2).0 | prod & 1 << 31;
        inner.registers.insert(r::EVENTQ_PROD, next);
    }

    pub(crate) fn raise(&self, bit: u32) {
        let value = self.get(r::GERROR);
        self.set(r::GERROR, value ^ bit);
    }
}

/// A word of the identity-mapped test memory.
pub(crate) fn word_at(phys: u64) -> &'static AtomicU64 {
    let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(phys as usize);
    // SAFETY: tests hand in addresses that `HeapTables` gave out and that are not
    // freed while the test runs; the words are atomic on both sides.
    unsafe { &*pointer }
}

impl Inner {
    fn read(&self, offset: u32) -> u32 {
        *self.registers.get(&offset).unwrap_or(&0)
    }

    fn step(&mut self) -> bool {
        let Some(&base) = self.wide.get(&r::CMDQ_BASE) else {
            return false;
        };
        let (base, lg2) = r::decode_queue_base(base);
        let cons = self.read(r::CMDQ_CONS);
        let index = r::QueueIndex::of(cons, lg2);
        let prod = r::QueueIndex::of(self.read(r::CMDQ_PROD), lg2);
        let stopped = (self.read(r::GERROR) ^ self.read(r::GERRORN)) & r::GERROR_CMDQ != 0;
        if stopped || index == prod {
            return false;
        }
        if let Some((fate, times)) = self.fates.get_mut(&self.met)
            && *times > 0
        {
            *times -= 1;
            let code = match fate {
                Fate::Illegal => 1,
                Fate::Abort => 2,
                Fate::AtcTimeout => 3,
                Fate::Unknown => 0x7f,
            };
            self.registers.insert(r::CMDQ_CONS, index.0 | code << 24);
            let gerror = self.read(r::GERROR);
            self.registers.insert(r::GERROR, gerror ^ r::GERROR_CMDQ);
            return false;
        }
        self.met += 1;
        let at = base.0 + 16 * u64::from(index.slot(lg2));
        let command = [0, 8].map(|o| u64::from_le(word_at(at + o).load(Ordering::Relaxed)));
        if let Some(observer) = &mut self.observer {
            observer(&command);
        }
        self.executed.push(command);
        // The error code is left as it was, as QEMU does.
        let code = cons & 0x7f00_0000;
        self.registers
            .insert(r::CMDQ_CONS, index.advanced(1, lg2).0 | code);
        true
    }
}

// SAFETY: a well-behaved device of a single lock.
unsafe impl SmmuHost for TestDevice {
    fn read32(&self, offset: u32) -> u32 {
        self.get(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        let inner = &mut *self.inner.lock();
        inner.registers.insert(offset, value);
        let mirror = match offset {
            r::CR0 => r::CR0ACK,
            r::IRQ_CTRL => r::IRQ_CTRLACK,
            _ => offset,
        };
        inner.registers.insert(mirror, value);
        let runs = matches!(offset, r::CMDQ_PROD | r::GERRORN | r::CR0);
        if runs && self.eager.load(Ordering::Relaxed) {
            while inner.step() {}
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        self.inner.lock().wide.insert(offset, value);
    }

    fn now(&self) -> TimeNs {
        TimeNs(self.now.fetch_add(1000, Ordering::Relaxed))
    }
}
