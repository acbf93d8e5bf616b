//! The CPU's side: memory by physical address, and caches that note what they
//! are told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use dmabench_dma::{CacheOps, Direction, Segment};
use dmabench_platform::{CpuMemory, Iova, MemoryError, PhysAddr};

use super::{Hostile, PAGE};

/// Memory below 2^40. Clones share it.
#[derive(Clone, Default)]
pub struct Paper(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    /// Calls that still succeed, where there is a limit.
    calls_left: Option<u64>,
    copied: u64,
    zeroed: u64,
}

impl State {
    fn byte(&mut self, at: u64) -> &mut u8 {
        let page = self
            .pages
            .entry(at / PAGE)
            .or_insert_with(|| Box::new([0; PAGE as usize]));
        &mut page[(at % PAGE) as usize]
    }

    fn call(&mut self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let refused = MemoryError::NotMemory {
            phys: at,
            len_bytes,
        };
        if at.last_byte(len_bytes).is_none_or(|last| last.0 >> 40 != 0) {
            return Err(refused);
        }
        if let Some(left) = &mut self.calls_left {
            *left = left.checked_sub(1).ok_or(refused)?;
        }
        Ok(())
    }
}

/// A range page by page.
fn in_pages(at: Iova, len: u64) -> impl Iterator<Item = (Iova, u64)> {
    let end = at.0 + len;
    std::iter::successors(Some(at.0), |at| Some((at / PAGE + 1) * PAGE))
        .take_while(move |at| *at < end)
        .map(move |at| (Iova(at), (PAGE - at % PAGE).min(end - at)))
}

impl Paper {
    pub fn write(&self, at: u64, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        for (at, byte) in (at..).zip(bytes) {
            *state.byte(at) = *byte;
        }
    }

    pub fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut state = self.0.lock().unwrap();
        (at..at + len).map(|at| *state.byte(at)).collect()
    }

    /// The device reads through the IOMMU; `None` where it faults.
    pub fn device_read(&self, iommu: &Hostile, at: Iova, len: u64) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for (at, len) in in_pages(at, len) {
            all.extend(self.read(iommu.touch(at)?.0, len));
        }
        Some(all)
    }

    /// The device writes through the IOMMU; false where it faults.
    pub fn device_write(&self, iommu: &Hostile, at: Iova, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for (at, len) in in_pages(at, bytes.len() as u64) {
            let Some(phys) = iommu.touch(at) else {
                return false;
            };
            let (now, later) = rest.split_at(len as usize);
            self.write(phys.0, now);
            rest = later;
        }
        true
    }

    /// After so many more calls, each fails; `None`: none does.
    pub fn fail_after(&self, calls: Option<u64>) {
        self.0.lock().unwrap().calls_left = calls;
    }

    /// Bytes copied and bytes zeroed so far.
    pub fn moved(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.copied, state.zeroed)
    }
}

impl CpuMemory for Paper {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let mut state = self.0.lock().unwrap();
        state.call(from, len_bytes)?;
        state.call(to, len_bytes)?;
        state.copied += len_bytes;
        for offset in 0..len_bytes {
            let byte = *state.byte(from.0 + offset);
            *state.byte(to.0 + offset) = byte;
        }
        Ok(())
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let mut state = self.0.lock().unwrap();
        state.call(at, len_bytes)?;
        state.zeroed += len_bytes;
        for at in at.0..at.0 + len_bytes {
            *state.byte(at) = 0;
        }
        Ok(())
    }
}

/// One call of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    ForDevice(Segment, Direction),
    ForCpu(Segment, Direction),
}

/// Notes its calls. Clones share them.
#[derive(Clone, Default)]
pub struct Caches(Arc<Mutex<Vec<Call>>>);

impl Caches {
    /// The calls since the last time.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl CacheOps for Caches {
    fn for_device(&self, piece: Segment, direction: Direction) {
        self.0
            .lock()
            .unwrap()
            .push(Call::ForDevice(piece, direction));
    }

    fn for_cpu(&self, piece: Segment, direction: Direction) {
        self.0.lock().unwrap().push(Call::ForCpu(piece, direction));
    }
}
