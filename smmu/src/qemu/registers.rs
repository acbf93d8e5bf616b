//! The SMMU's registers, as the driver wants them.

use alloc::collections::BTreeMap;
use core::sync::atomic::{Ordering, fence};

use dmabench_platform::{Clock, MonotonicClock, TimeNs, sync::Mutex};

use super::Qtest;
use crate::{SmmuHost, format::registers as r};

/// Where QEMU's `virt` machine has its SMMU.
pub(super) const SMMU_BASE: u64 = 0x0905_0000;

/// The register frame of QEMU's SMMUv3.
///
/// Its calls cannot fail. Once the connection is broken, QEMU is dead: writes go
/// nowhere, `CR0ACK` reads as 0, for the SMMU is off, and every other register
/// keeps the value it was last seen with. To the driver that is an SMMU that
/// stands still: its waits time out. [`Qtest::broken`] says why.
#[derive(Debug)]
pub struct QemuSmmu {
    qtest: Qtest,
    clock: MonotonicClock,
    /// Values last read or written, by offset.
    seen: Mutex<BTreeMap<u32, u32>>,
}

impl QemuSmmu {
    pub(super) fn new(qtest: Qtest) -> Self {
        QemuSmmu {
            qtest,
            clock: MonotonicClock::default(),
            seen: Mutex::new(BTreeMap::new()),
        }
    }

    /// The connection.
    pub fn qtest(&self) -> &Qtest {
        &self.qtest
    }

    fn address(offset: u32) -> u64 {
        SMMU_BASE + u64::from(offset)
    }
}

// SAFETY: the registers are those of an SMMUv3 that does what its commands say
// (QEMU's), and whoever has the value programs it. Order: before a write the
// stores are made visible by `publish` and by the system call that sends it; the
// answer to a read is received by one, and the fence keeps later loads behind it.
// A broken connection makes the device stand still: it completes nothing that it
// had not completed. No method unwinds: a poisoned or failed connection is a value.
unsafe impl SmmuHost for QemuSmmu {
    fn read32(&self, offset: u32) -> u32 {
        let read = self.qtest.read32(Self::address(offset));
        fence(Ordering::Acquire);
        let mut seen = self.seen.lock();
        match read {
            Ok(value) => {
                seen.insert(offset, value);
                value
            }
            Err(_) if offset == r::CR0ACK => 0,
            Err(_) => seen.get(&offset).copied().unwrap_or(0),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        fence(Ordering::Release);
        if self.qtest.write32(Self::address(offset), value).is_ok() {
            self.seen.lock().insert(offset, value);
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        fence(Ordering::Release);
        // Whether it arrived shows in what is read next.
        let _broken = self.qtest.write64(Self::address(offset), value);
    }

    fn now(&self) -> TimeNs {
        self.clock.now()
    }
}
