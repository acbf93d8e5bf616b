//! Anything a driver or an attacker may write: registers, queues, structures and
//! tables full of arbitrary bits. The model neither panics nor hangs, and no
//! access reaches more than the tables say.

use std::sync::Arc;

use dmabench_platform::{Iova, PhysAddr, VirtualClock};
use dmabench_smmu::{
    SmmuHost,
    format::{Command, SteFields, registers as reg},
    soft::{
        Access, ModelConfig, SimMemory, SimMemoryConfig, SmmuModel, SoftConfig, SoftSmmu,
        Stage1Regs, Stage2Regs, StreamConfig,
    },
};
use proptest::prelude::*;

/// Words that look like descriptors and structures more often than chance.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        // A table or a page somewhere in the first pages.
        (0..16_u64, 0..4096_u64).prop_map(|(page, low)| page << 12 | low | 1),
        (0..16_u64).prop_map(|page| page << 12 | 0xf47),
        Just(0),
        Just(u64::MAX),
    ]
}

const OFFSETS: [u32; 17] = [
    reg::CR0,
    reg::CR1,
    reg::CR2,
    reg::GBPA,
    reg::IRQ_CTRL,
    reg::GERRORN,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
    reg::STRTAB_BASE,
    reg::CMDQ_BASE,
    reg::EVENTQ_BASE,
    reg::IDR0,
    0x1_0000,
    u32::MAX,
];

#[derive(Clone, Debug)]
enum Poke {
    Register(usize, u64),
    Memory(u64, u64),
    /// A stream table entry that is valid, but for a few words.
    Stream(u32, u8, [u64; 4]),
    Access(u32, Option<u32>, u64, bool),
    Error(u8),
    Stall(bool),
    Relax,
}

fn poke() -> impl Strategy<Value = Poke> {
    let small = prop_oneof![
        any::<u64>(),
        0..64_u64,
        (0..16_u64).prop_map(|p| p << 12 | 4)
    ];
    prop_oneof![
        4 => (0..OFFSETS.len(), small).prop_map(|(at, value)| Poke::Register(at, value)),
        6 => (0..8192_u64, word()).prop_map(|(at, value)| Poke::Memory(at * 8, value)),
        2 => (0..8_u32, any::<u8>(), prop::array::uniform4(word()))
            .prop_map(|(sid, keep, words)| Poke::Stream(sid, keep, words)),
        4 => (0..10_u32, prop::option::of(0..300_u32), word(), any::<bool>())
            .prop_map(|(sid, ssid, at, write)| Poke::Access(sid, ssid, at, write)),
        1 => any::<u8>().prop_map(Poke::Error),
        1 => any::<bool>().prop_map(Poke::Stall),
        1 => Just(Poke::Relax),
    ]
}

fn access(write: bool) -> Access {
    if write { Access::Write } else { Access::Read }
}

proptest! {
    #[test]
    fn any_register_write_and_any_bytes_are_survived(
        pokes in prop::collection::vec(poke(), 1..200),
        seed in prop::option::of(any::<u64>()),
    ) {
        let memory = SimMemory::new(SimMemoryConfig::default().with_data_limit(1 << 20)).unwrap();
        let config = match seed {
            Some(seed) => ModelConfig::default().with_seed(seed),
            None => ModelConfig::default(),
        };
        let model = SmmuModel::new(memory.clone(), Arc::new(VirtualClock::default()), config);
        // A start that works, so that the walk goes somewhere.
        model.write64(reg::STRTAB_BASE, 0x1000);
        model.write32(reg::STRTAB_BASE_CFG, 3);
        model.write64(reg::CMDQ_BASE, 0x2000 | 6);
        model.write64(reg::EVENTQ_BASE, 0x3000 | 4);
        for slot in 0..64 {
            let [low, high] = Command::SYNC.encode();
            memory.write_u64(PhysAddr(0x2000 + slot * 16), low).unwrap();
            memory.write_u64(PhysAddr(0x2008 + slot * 16), high).unwrap();
        }
        model.write32(reg::CR0, 0xd);
        for poke in pokes {
            match poke {
                Poke::Register(at, value) if (11..=13).contains(&at) => {
                    model.write64(OFFSETS[at], value);
                }
                Poke::Register(at, value) => {
                    model.write32(OFFSETS[at], value as u32);
                    model.read32(OFFSETS[at]);
                }
                Poke::Memory(at, value) => {
                    memory.write_u64(PhysAddr(at), value).unwrap();
                }
                Poke::Stream(sid, keep, words) => {
                    let base = SteFields { valid: true, ..SteFields::stage1(PhysAddr(0x4000), 0) };
                    let base = base.encode().0;
                    for (i, word) in words.iter().enumerate() {
                        let value = if keep >> i & 1 == 0 { base[i] } else { *word };
                        let at = 0x1000 + u64::from(sid) * 64 + 8 * i as u64;
                        memory.write_u64(PhysAddr(at), value).unwrap();
                    }
                }
                Poke::Access(sid, ssid, at, write) => {
                    let device = model.device(sid, ssid);
                    let outcome = device.probe(Iova(at), access(write));
                    if let Some(phys) = outcome.phys() {
                        prop_assert!(phys.0 >> 52 == 0 || phys.0 == at, "{phys} of {at:#x}");
                    }
                }
                Poke::Error(code) => model.inject_command_error(code, u32::from(code >> 7)),
                Poke::Stall(on) => model.set_stalled(on),
                Poke::Relax => model.relax(),
            }
        }
    }

    #[test]
    fn a7_any_registers_and_any_tables_stay_inside_the_output_size(
        words in prop::collection::vec((0..4096_u64, word()), 0..400),
        fields in any::<[u8; 8]>(),
        bases in (0..16_u64, 0..16_u64),
        flags in any::<[bool; 6]>(),
        addresses in prop::collection::vec((word(), any::<bool>()), 1..40),
    ) {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        for (at, value) in words {
            memory.write_u64(PhysAddr(at * 8), value).unwrap();
        }
        let clock = Arc::new(VirtualClock::default());
        let smmu = SoftSmmu::new(memory, clock, SoftConfig::default());
        let [t0sz, tg, ips, t1sz, tg1, sl0, _, _] = fields;
        let stage1 = Stage1Regs {
            ttb0: bases.0 << 12,
            t0sz: t0sz % 64,
            tg0: tg % 4,
            epd0: flags[0],
            ttb1: bases.1 << 12,
            t1sz: t1sz % 64,
            tg1: tg1 % 4,
            epd1: flags[1],
            ips: ips % 8,
            ds: flags[2],
            affd: flags[3],
            ha: flags[4],
            hd: flags[5],
        };
        let stage2 = Stage2Regs {
            ttb: bases.1 << 12,
            t0sz: t1sz % 64,
            sl0: sl0 % 5,
            tg: tg1 % 4,
            ps: ips % 8,
            ds: flags[2],
            affd: flags[3],
            ha: flags[4],
            hd: flags[5],
        };
        let bits = [32, 36, 40, 42, 44, 48, 52, 64][usize::from(ips % 8)];
        for config in [
            StreamConfig::stage1(1, stage1),
            StreamConfig::stage2(2, stage2),
            StreamConfig::nested(3, stage1, 4, stage2),
        ] {
            let Ok(device) = smmu.attach(config) else { continue };
            for (at, write) in &addresses {
                let outcome = device.probe(Iova(*at), access(*write));
                if let Some(phys) = outcome.phys() {
                    prop_assert_eq!(phys.0 >> bits, 0);
                }
            }
        }
    }
}
