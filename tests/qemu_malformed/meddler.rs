//! The registers between the driver and QEMU, where a test falsifies what passes.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use dmabench_platform::{PhysAddr, TimeNs};
use dmabench_smmu::{
    SmmuHost,
    format::registers as reg,
    qemu::{GuestRam, Qemu, QemuSmmu},
};

/// No RAM and no device.
pub(crate) const HOLE: u64 = 0x8000_0000;

/// What becomes of a command's two words.
pub(crate) type Change = fn(&mut [u64; 2]);

/// Registers whose writes are falsified once, when a test says so.
pub(crate) struct Meddler {
    inner: QemuSmmu,
    ram: GuestRam,
    queue: AtomicU64,
    prod: AtomicU32,
    /// What becomes of the first command that is published next.
    pub(crate) command: Mutex<Option<Change>>,
    /// The base register whose next value points into the hole.
    pub(crate) base: Mutex<Option<u32>>,
}

impl Meddler {
    pub(crate) fn new(qemu: &Qemu) -> Self {
        Meddler {
            inner: qemu.smmu(),
            ram: qemu.ram().clone(),
            queue: AtomicU64::new(0),
            prod: AtomicU32::new(0),
            command: Mutex::new(None),
            base: Mutex::new(None),
        }
    }

    fn falsify(&self, first: u32, change: Change) {
        let (base, lg2) = reg::decode_queue_base(self.queue.load(Ordering::Relaxed));
        let slot = reg::QueueIndex::of(first, lg2).slot(lg2);
        let at = PhysAddr(base.0 + u64::from(slot) * 16);
        let mut words = [0, 1].map(|word| self.word(PhysAddr(at.0 + 8 * word)));
        change(&mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.write(at, &bytes).unwrap();
    }

    pub(crate) fn word(&self, at: PhysAddr) -> u64 {
        let mut bytes = [0; 8];
        self.ram.read(at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }
}

// SAFETY: as `QemuSmmu`, but for what a test falsifies: a command that is illegal
// and thus reported, or a base in a hole, where nothing is executed either.
unsafe impl SmmuHost for Meddler {
    fn read32(&self, offset: u32) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        if offset == reg::CMDQ_PROD {
            let first = self.prod.swap(value, Ordering::Relaxed);
            if let Some(change) = self.command.lock().unwrap().take() {
                self.falsify(first, change);
            }
        }
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut base = self.base.lock().unwrap();
        if *base == Some(offset) {
            *base = None;
            return self.inner.write64(offset, HOLE | value & 0x1f);
        }
        if offset == reg::CMDQ_BASE {
            self.queue.store(value, Ordering::Relaxed);
        }
        self.inner.write64(offset, value);
    }

    fn now(&self) -> TimeNs {
        self.inner.now()
    }
}
