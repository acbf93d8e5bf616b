//! One stream with its tables and structures within reach of a test.

use std::sync::Arc;

use dmabench_pgtable::{PageTable, Prot, S1K4, TableConfig};
use dmabench_platform::{Fences, Iova, PhysAddr, Slots, Timeout};
use dmabench_smmu::{
    driver::{AtsUse, Smmu, SmmuConfig, SmmuContext, StreamTarget},
    format::{Command, Event, EventKind, registers as reg},
    qemu::{
        AdmaTable, AdmaWidth, BLOCK_BYTES, Batch, GuestRam, Qemu, QemuConfig, SdHost, TransferError,
    },
};

use crate::{
    meddler::Meddler,
    qemu_support::{PAGE, pattern, start},
};

pub(crate) const SHORT: Timeout = Timeout(200_000_000);

pub(crate) const DATA: Iova = Iova(0x10_0000);

pub(crate) const TABLE: Iova = Iova(0x20_0000);

/// One stream, two mapped pages, no domain: everything within reach.
pub(crate) struct Rig {
    pub(crate) host: SdHost,
    pub(crate) tables: PageTable<S1K4, GuestRam>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) driver: Smmu<Meddler, GuestRam>,
    pub(crate) context: SmmuContext,
    pub(crate) data: PhysAddr,
    pub(crate) adma: AdmaTable,
    pub(crate) qemu: Qemu,
    pub(crate) passes: u64,
}

impl Rig {
    pub(crate) fn new(name: &str) -> Option<Self> {
        Self::with(
            name,
            SmmuConfig::default(),
            TableConfig::new(48, 44),
            |_| {},
        )
    }

    pub(crate) fn with(
        name: &str,
        smmu: SmmuConfig,
        tables: TableConfig,
        meddle: impl Fn(&Meddler),
    ) -> Option<Self> {
        let qemu = start(name, QemuConfig::default().with_cards(&[1 << 20]))?;
        let host = qemu.sd_host(0).unwrap();
        let meddler = Meddler::new(&qemu);
        meddle(&meddler);
        let driver = Smmu::new(meddler, qemu.ram().clone(), smmu.with_timeout(SHORT)).unwrap();
        let slots = Arc::new(Slots::new(1, Fences::detect()).unwrap());
        let tables = PageTable::new(tables, qemu.ram().clone(), slots.clone()).unwrap();
        let context = driver.create_context(&tables.registers()).unwrap();
        let [data, list] = [0, 1].map(|_| qemu.ram().alloc(PAGE, PAGE).unwrap());
        for (iova, phys) in [(DATA, data), (TABLE, list)] {
            let slot = slots.enter_fallback();
            tables
                .map(&slot, iova, phys, PAGE, Prot::READ_WRITE)
                .unwrap();
        }
        let adma = AdmaTable::new(qemu.ram(), list, PAGE, TABLE, AdmaWidth::Bits32);
        Some(Rig {
            host,
            tables,
            slots,
            driver,
            context,
            data,
            adma,
            qemu,
            passes: 0,
        })
    }

    pub(crate) fn attach(&self) {
        let target = StreamTarget::Context(self.context);
        let sid = self.host.stream_id();
        self.driver.attach(sid, target, AtsUse::Off).unwrap();
    }

    pub(crate) fn attached(name: &str) -> Option<Self> {
        let rig = Self::new(name)?;
        rig.attach();
        Some(rig)
    }

    pub(crate) fn read(&mut self, pieces: &[(Iova, u64)]) -> Result<(), TransferError> {
        let list = self.adma.fill(pieces.iter().copied()).unwrap();
        self.host.read(0, &list)
    }

    pub(crate) fn transfer(&mut self) -> Result<(), TransferError> {
        self.read(&[(DATA, BLOCK_BYTES)])
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let batch = self.driver.poll_events(1000, |event| events.push(*event));
        assert!(!batch.unwrap().lost);
        events
    }

    /// A transfer succeeds, its data arrives, nothing is reported.
    pub(crate) fn works(&mut self) {
        self.passes += 1;
        let data = pattern(self.passes, 0, BLOCK_BYTES);
        self.host.image().write(0, &data).unwrap();
        self.transfer().unwrap();
        let mut got = vec![0; BLOCK_BYTES as usize];
        self.qemu.ram().read(self.data, &mut got).unwrap();
        assert_eq!(got, data);
        assert_eq!(self.events(), []);
    }

    /// A transfer fails, and this is reported, once for each access.
    pub(crate) fn fails(&mut self) -> Vec<Event> {
        let error = self.transfer().unwrap_err();
        assert!(matches!(error, TransferError::Dma { .. }), "{error:?}");
        self.events()
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        self.driver.host().word(PhysAddr(at))
    }

    pub(crate) fn set_word(&self, at: u64, value: u64) {
        self.qemu
            .ram()
            .write(PhysAddr(at), &value.to_le_bytes())
            .unwrap();
    }

    /// Where the stream's entry is in memory, as the SMMU finds it.
    pub(crate) fn ste(&self) -> u64 {
        let sid = u64::from(self.host.stream_id());
        let mut base = Batch::new();
        for word in 0..3 {
            base.read32(0x0905_0000 + u64::from(reg::STRTAB_BASE) + 4 * word);
        }
        let words = self.qemu.qtest().run(&base).unwrap();
        let level1 = (words[0] | words[1] << 32) & 0x000f_ffff_ffff_ffc0;
        let (shape, _) = reg::StrtabBaseCfg::decode(words[2] as u32);
        let split = shape.split.expect("two levels");
        let leaf = self.word(level1 + 8 * (sid >> split)) & 0x000f_ffff_ffff_ffc0;
        leaf + 64 * (sid & ((1 << split) - 1))
    }

    pub(crate) fn cd(&self) -> u64 {
        self.word(self.ste()) & 0x000f_ffff_ffff_ffc0
    }

    /// Configuration and translations are read again.
    pub(crate) fn forget(&self) {
        let queue = self.driver.command_queue();
        let all = [Command::CfgiAll.encode(), Command::TlbiNsnhAll.encode()];
        let ticket = queue.push_sync(&all).unwrap();
        queue.sync_wait(ticket, SHORT).unwrap();
    }

    /// With one word changed, transfers fail; with the old one they work again.
    pub(crate) fn broken_by(&mut self, at: u64, value: u64) -> Vec<Event> {
        let old = self.word(at);
        assert_ne!(old, value);
        self.set_word(at, value);
        self.forget();
        let events = self.fails();
        self.set_word(at, old);
        self.forget();
        self.works();
        events
    }
}

pub(crate) fn kinds(events: &[Event]) -> Vec<EventKind> {
    let mut kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    kinds.dedup();
    kinds
}
