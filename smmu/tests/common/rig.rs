//! An SMMU behind its registers, and a driver that does nothing by itself.

use std::sync::Arc;

use dmabench_pgtable::TableMemory;
use dmabench_platform::{Granule, Iova, PhysAddr, VirtualClock};
use dmabench_smmu::{
    SmmuHost,
    format::{
        Cd, CdFields, Command, Event, RawCommand, Ste, SteFields, TableHalf, registers as reg,
    },
    soft::{
        Access, FaultKind, ModelConfig, SimDevice, SimMemory, SimMemoryConfig, SmmuModel,
        ViolationKind,
    },
};

pub const ASID: u16 = 5;
pub const IOVA: Iova = Iova(0x4000_0000);
pub const PHYS: u64 = 0x9_0000_0000;
pub const SID: u32 = 3;

/// A driver that does nothing by itself.
pub struct Rig {
    pub memory: Arc<SimMemory>,
    pub model: Arc<SmmuModel>,
    pub strtab: PhysAddr,
    pub cmdq: PhysAddr,
    pub eventq: PhysAddr,
    pub lg2: u32,
}

impl Rig {
    pub fn new(config: ModelConfig, lg2: u32) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let model = SmmuModel::new(memory.clone(), clock, config);
        let table = |bytes| memory.alloc(bytes).unwrap().phys;
        let rig = Rig {
            strtab: table(64 * 64),
            cmdq: table(4096),
            eventq: table(4096),
            memory: memory.clone(),
            model,
            lg2,
        };
        rig.model
            .write64(reg::CMDQ_BASE, reg::queue_base(rig.cmdq, lg2, false));
        rig.model
            .write64(reg::EVENTQ_BASE, reg::queue_base(rig.eventq, lg2, false));
        rig.model
            .write64(reg::STRTAB_BASE, reg::strtab_base(rig.strtab, false));
        let cfg = reg::StrtabBaseCfg {
            lg2_size: 6,
            split: None,
        };
        rig.model.write32(reg::STRTAB_BASE_CFG, cfg.encode());
        rig.enable(reg::CR0_CMDQEN | reg::CR0_EVENTQEN | reg::CR0_SMMUEN);
        rig
    }

    pub fn at_once() -> Self {
        Rig::new(ModelConfig::default(), 6)
    }

    pub fn enable(&self, bits: u32) {
        self.model.write32(reg::CR0, bits);
        while self.model.read32(reg::CR0ACK) != bits {
            self.model.relax();
        }
    }

    pub fn device(&self) -> SimDevice {
        self.model.device(SID, None)
    }

    pub fn words(&self, at: PhysAddr, words: &[u64]) {
        for (i, word) in words.iter().enumerate() {
            let at = PhysAddr(at.0 + 8 * i as u64);
            self.memory.write_u64(at, *word).unwrap();
        }
    }

    pub fn ste(&self, sid: u32, ste: &Ste) {
        let at = PhysAddr(self.strtab.0 + u64::from(sid) * 64);
        self.words(at, &ste.0);
    }

    /// Queues one command without telling the SMMU, and returns the next index.
    pub fn put(&self, prod: u32, raw: &RawCommand) -> u32 {
        let prod = reg::QueueIndex::of(prod, self.lg2);
        let at = self.cmdq.0 + u64::from(prod.slot(self.lg2)) * 16;
        self.words(PhysAddr(at), raw);
        prod.advanced(1, self.lg2).0
    }

    pub fn send_raw(&self, raw: &RawCommand) {
        let prod = self.put(self.model.read32(reg::CMDQ_PROD), raw);
        self.model.write32(reg::CMDQ_PROD, prod);
    }

    /// Sends a command and waits until it is consumed.
    pub fn send(&self, command: Command) {
        self.send_raw(&command.encode());
        let prod = self.model.read32(reg::CMDQ_PROD);
        while self.model.read32(reg::CMDQ_CONS) != prod {
            self.model.relax();
        }
    }

    pub fn invalidate_config(&self, sid: u32) {
        self.send(Command::CfgiSte { sid, leaf: true });
        self.send(Command::SYNC);
    }

    /// Four tables at stage 1 that map `IOVA` to `phys`; returns the root.
    pub fn tables(&self, phys: u64) -> PhysAddr {
        let level = |_| self.memory.alloc(4096).unwrap().phys;
        let [root, second, third]: [PhysAddr; 3] = core::array::from_fn(level);
        let index = |shift: u32| (IOVA.0 >> shift & 511) * 8;
        self.words(PhysAddr(root.0 + index(30)), &[second.0 | 3]);
        self.words(PhysAddr(second.0 + index(21)), &[third.0 | 3]);
        self.words(PhysAddr(third.0 + index(12)), &[phys | 0xf47]);
        root
    }

    pub fn cd(&self, asid: u16, root: PhysAddr) -> Cd {
        CdFields::new(asid, TableHalf::new(root, 25, Granule::K4), 5, 0xff44).encode()
    }

    /// A stream with stage 1, its context descriptor in a table of its own.
    pub fn attach(&self, asid: u16, phys: u64) -> PhysAddr {
        let cds = self.memory.alloc(4096).unwrap().phys;
        self.words(cds, &self.cd(asid, self.tables(phys)).0);
        self.ste(SID, &valid(SteFields::stage1(cds, 0)));
        cds
    }

    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let cons = self.model.read32(reg::EVENTQ_CONS);
            let prod = self.model.read32(reg::EVENTQ_PROD);
            let at = reg::QueueIndex::of(cons, self.lg2);
            if at == reg::QueueIndex::of(prod, self.lg2) {
                return events;
            }
            let slot = u64::from(at.slot(self.lg2));
            let word = |i: u64| {
                self.memory
                    .read_u64(PhysAddr(self.eventq.0 + slot * 32 + 8 * i))
            };
            events.push(Event::decode(&[word(0), word(1), word(2), word(3)]));
            let next = at.advanced(1, self.lg2).0 | cons & 1 << 31;
            self.model.write32(reg::EVENTQ_CONS, next);
        }
    }

    pub fn violations(&self) -> Vec<ViolationKind> {
        let all = self.model.smmu().violations();
        all.iter().map(|v| v.kind).collect()
    }
}

pub fn valid(fields: SteFields) -> Ste {
    SteFields {
        valid: true,
        ..fields
    }
    .encode()
}

pub fn fault(device: &SimDevice) -> FaultKind {
    device.probe(IOVA, Access::Write).fault().unwrap().kind
}
