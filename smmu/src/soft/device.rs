//! Devices that read and write memory through the SMMU.

use alloc::sync::Arc;
use core::fmt;

use dmabench_platform::{Iova, TimeNs};

use super::{
    memory::{FRAME_BYTES, MemoryFull},
    model::SmmuModel,
    report::{Access, Fault, Freshness, Outcome},
    translate::Regime,
    unit::SoftSmmu,
};

/// A device that does what it is told, whatever it is allowed to: its accesses
/// are stopped by the SMMU or not at all.
///
/// Cheap to clone; clones and other devices may access from other threads.
#[derive(Clone)]
pub struct SimDevice {
    port: Port,
}

/// How a device's transactions find their tables.
#[derive(Clone)]
enum Port {
    /// It was attached by a call.
    Direct { smmu: Arc<SoftSmmu>, regime: Regime },
    /// By the stream table.
    Stream {
        model: Arc<SmmuModel>,
        sid: u32,
        ssid: Option<u32>,
    },
}

/// What a transfer of bytes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes moved before the end or the fault.
    pub done_bytes: u64,
    /// Pages reached although the tables no longer said so.
    pub stale_pages: u64,
    /// What stopped it.
    pub fault: Option<Fault>,
}

/// What touching many pages came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pages reached as the tables say.
    pub fresh: u64,
    /// Pages reached although the tables no longer say so.
    pub stale: u64,
    /// Pages that faulted.
    pub faulted: u64,
    /// Age of the oldest stale page, in ns, from the first access that found it
    /// stale.
    pub stale_age_max_ns: u64,
}

/// Simulated memory has no room for a page that a device writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferError {
    /// What was done until then.
    pub transfer: Transfer,
    /// The limit that was met.
    pub full: MemoryFull,
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} bytes: {}", self.transfer.done_bytes, self.full)
    }
}

impl core::error::Error for TransferError {}

impl SimDevice {
    pub(super) fn new(smmu: Arc<SoftSmmu>, regime: Regime) -> Self {
        SimDevice {
            port: Port::Direct { smmu, regime },
        }
    }

    pub(super) fn of_stream(model: Arc<SmmuModel>, sid: u32, ssid: Option<u32>) -> Self {
        SimDevice {
            port: Port::Stream { model, sid, ssid },
        }
    }

    /// The SMMU the device is behind.
    pub fn smmu(&self) -> &Arc<SoftSmmu> {
        match &self.port {
            Port::Direct { smmu, .. } => smmu,
            Port::Stream { model, .. } => model.smmu(),
        }
    }

    /// One access at `iova` that moves no data.
    pub fn probe(&self, iova: Iova, access: Access) -> Outcome {
        match &self.port {
            Port::Direct { smmu, regime } => smmu.access(regime, iova, access),
            Port::Stream { model, sid, ssid } => model.access(*sid, *ssid, iova, access),
        }
    }

    /// Touches every 4 KiB page that overlaps the range, and moves no data. A
    /// range that would wrap ends at the last page.
    pub fn touch(&self, iova: Iova, len_bytes: u64, access: Access) -> Touched {
        let mut touched = Touched::default();
        if len_bytes == 0 {
            return touched;
        }
        let first = Iova(iova.0 & !(FRAME_BYTES - 1));
        let last = iova.last_byte(len_bytes).unwrap_or(Iova(u64::MAX));
        let now = self.smmu().now();
        let mut each = |outcome: &Outcome| count(&mut touched, outcome, now);
        if let Port::Direct { smmu, regime } = &self.port {
            smmu.accesses(regime, first, last, FRAME_BYTES, access, each);
            return touched;
        }
        let mut at = first;
        loop {
            each(&self.probe(at, access));
            match at.checked_add(FRAME_BYTES) {
                Some(next) if next <= last => at = next,
                _ => return touched,
            }
        }
    }

    /// Reads `into.len()` bytes: memory to device. Stops at the first fault.
    pub fn read(&self, iova: Iova, into: &mut [u8]) -> Transfer {
        let mut transfer = Transfer::default();
        let mut rest = into;
        while !rest.is_empty() {
            let Some((now, outcome)) =
                self.next_piece(iova, rest.len(), Access::Read, &mut transfer)
            else {
                break;
            };
            let (head, tail) = rest.split_at_mut(now);
            self.smmu().memory().read(outcome, head);
            transfer.done_bytes += now as u64;
            rest = tail;
        }
        transfer
    }

    /// Writes `from`: device to memory. Stops at the first fault.
    ///
    /// # Errors
    ///
    /// [`TransferError`] if the simulated memory is full.
    pub fn write(&self, iova: Iova, from: &[u8]) -> Result<Transfer, TransferError> {
        let mut transfer = Transfer::default();
        let mut rest = from;
        while !rest.is_empty() {
            let Some((now, phys)) = self.next_piece(iova, rest.len(), Access::Write, &mut transfer)
            else {
                break;
            };
            let (head, tail) = rest.split_at(now);
            self.smmu()
                .memory()
                .write(phys, head)
                .map_err(|full| TransferError { transfer, full })?;
            transfer.done_bytes += now as u64;
            rest = tail;
        }
        Ok(transfer)
    }

    /// Translates the page at `iova + transfer.done_bytes`: how many bytes of it
    /// are wanted and where they are; `None` at a fault.
    fn next_piece(
        &self,
        iova: Iova,
        left: usize,
        access: Access,
        transfer: &mut Transfer,
    ) -> Option<(usize, dmabench_platform::PhysAddr)> {
        let at = iova.checked_add(transfer.done_bytes)?;
        match self.probe(at, access) {
            Outcome::Reached { phys, freshness } => {
                transfer.stale_pages += u64::from(!freshness.is_fresh());
                let in_page = (FRAME_BYTES - at.0 % FRAME_BYTES) as usize;
                Some((left.min(in_page), phys))
            }
            Outcome::Faulted(fault) => {
                transfer.fault = Some(fault);
                None
            }
        }
    }
}

fn count(touched: &mut Touched, outcome: &Outcome, now: TimeNs) {
    match outcome {
        Outcome::Reached {
            freshness: Freshness::Fresh,
            ..
        } => touched.fresh += 1,
        Outcome::Reached { freshness, .. } => {
            touched.stale += 1;
            touched.stale_age_max_ns = touched.stale_age_max_ns.max(freshness.age_ns(now));
        }
        Outcome::Faulted(_) => touched.faulted += 1,
    }
}

impl fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SimDevice");
        match &self.port {
            Port::Direct { regime, .. } => out.field("regime", regime),
            Port::Stream { sid, ssid, .. } => out.field("sid", sid).field("ssid", ssid),
        };
        out.finish_non_exhaustive()
    }
}
