//! One SMMU with our driver and tables in front of it.

use std::sync::Arc;

use dmabench_flushq::{Gather, TlbBackend, TlbRange};
use dmabench_pgtable::{Format, PageTable, Prot, Stage, TableConfig, TableMemory, Translation};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, Timeout};
use dmabench_smmu::{
    SmmuHost,
    driver::{AtsUse, Smmu, SmmuContext, StreamTarget},
    format::Event,
};

/// 44 bits come out of QEMU's SMMU; stage 2 takes no more than come out.
fn table_config<F: Format>() -> TableConfig {
    match F::STAGE {
        Stage::One => TableConfig::new(48, 44),
        Stage::Two => TableConfig::new(44, 44),
    }
}

/// Tables, context and stream of one sequence.
pub(crate) struct Side<F: Format, H: SmmuHost, M: TableMemory> {
    pub(crate) driver: Arc<Smmu<H, M>>,
    tables: PageTable<F, M>,
    slots: Arc<Slots>,
    context: SmmuContext,
    sid: u32,
    /// What was unmapped and not invalidated yet.
    pub(crate) pending: Vec<Gather>,
}

impl<F: Format, H: SmmuHost, M: TableMemory> Side<F, H, M> {
    pub(crate) fn new(driver: &Arc<Smmu<H, M>>, memory: M, sid: u32) -> Self {
        let slots = Arc::new(Slots::new(0, Fences::detect()).unwrap());
        let tables = PageTable::new(table_config::<F>(), memory, slots.clone()).unwrap();
        let context = driver.create_context(&tables.registers()).unwrap();
        let target = StreamTarget::Context(context);
        driver.attach(sid, target, AtsUse::Off).unwrap();
        Side {
            driver: driver.clone(),
            tables,
            slots,
            context,
            sid,
            pending: Vec::new(),
        }
    }

    /// What the tables did, for comparison.
    pub(crate) fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> String {
        let slot = self.slots.enter_fallback();
        format!("{:?}", self.tables.map(&slot, iova, phys, len, prot))
    }

    /// Unmaps; what has to be invalidated waits.
    pub(crate) fn unmap(&mut self, iova: Iova, len: u64) -> (bool, Vec<TlbRange>) {
        let mut gather = Gather::new(F::GRANULE);
        let slot = self.slots.enter_fallback();
        let done = self.tables.unmap(&slot, iova, len, &mut gather).is_ok();
        let ranges = gather.ranges().to_vec();
        self.pending.push(gather);
        (done, ranges)
    }

    pub(crate) fn translate(&self, iova: Iova) -> Option<Translation> {
        let slot = self.slots.enter_fallback();
        self.tables.translate(&slot, iova)
    }

    /// Invalidates what one unmap left, and gives its tables back. With `skip`
    /// the SMMU is not told.
    pub(crate) fn invalidate(&mut self, index: usize, skip: bool) {
        let gather = self.pending.remove(index);
        if skip {
            // Its tables leak.
            return;
        }
        let issued = gather.issue(&self.driver, None, &self.context).unwrap();
        let (_, tables) = issued
            .wait(None, Timeout::DEFAULT)
            .unwrap()
            .into_payload_and_tables();
        // SAFETY: their invalidation has completed.
        unsafe { self.tables.release(tables) };
        self.tables.collect();
    }

    pub(crate) fn invalidate_range(&self, range: TlbRange) {
        self.driver
            .invalidate(None, &self.context, &[range])
            .unwrap();
        self.sync();
    }

    pub(crate) fn invalidate_all(&self) {
        self.driver.invalidate_all(None, &self.context).unwrap();
        self.sync();
    }

    fn sync(&self) {
        let ticket = self.driver.sync_begin(None).unwrap();
        let synced = self.driver.sync_wait(None, ticket, Timeout::DEFAULT);
        assert!(synced.unwrap().up_to() >= ticket);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let batch = self.driver.poll_events(1000, |event| events.push(*event));
        assert!(!batch.unwrap().lost);
        events
    }

    /// Takes everything down; the driver stays for the next sequence.
    pub(crate) fn end(mut self) {
        while !self.pending.is_empty() {
            self.invalidate(0, false);
        }
        self.driver.detach(self.sid).unwrap();
        self.driver.destroy_context(self.context).unwrap();
    }
}
