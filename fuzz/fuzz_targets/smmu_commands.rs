//! Arbitrary command bytes: the checker, the decoder and the software SMMU agree
//! on what is illegal, the queue stops at exactly the first illegal command, and
//! goes on once it is replaced.

#![no_main]

use std::sync::Arc;

use dmabench_platform::{PhysAddr, VirtualClock};
use dmabench_smmu::{
    SmmuHost,
    format::{Command, CommandIssue, Features, IdRegisters, RawCommand, check_command, registers as r},
    soft::{ModelConfig, SimMemory, SimMemoryConfig, SmmuModel},
};
use libfuzzer_sys::fuzz_target;

const LG2: u32 = 5;
const QUEUE: u64 = 0x8000_0000;

/// Any bits, but the known opcodes and fields more often than chance.
fn command(bytes: &[u8]) -> RawCommand {
    const OPCODES: [u8; 24] = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28,
        0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46, 0x00, 0x80,
    ];
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (mut first, second) = (word(1), word(9));
    if bytes[0] & 1 != 0 {
        let opcode = OPCODES[usize::from(bytes[0] >> 1) % OPCODES.len()];
        first = first & !0xff | u64::from(opcode);
    }
    if bytes[0] & 0x80 != 0 {
        // Not of the Secure queue.
        first &= !(1 << 10);
    }
    [first, second]
}

fn check_one(raw: &RawCommand, features: &Features) -> bool {
    let decoded = Command::decode(raw, features);
    match check_command(raw, features) {
        Ok(command) => {
            assert_eq!(decoded, Ok(command));
            assert_eq!(command.encode(), *raw, "what passes is said in full");
        }
        Err(issue) if issue.is_cerror_ill() => assert_eq!(decoded, Err(issue)),
        Err(issue) => {
            let command = decoded.expect("only CERROR_ILL stops a decoder");
            // What decoding ignored is gone after one round.
            let again = Command::decode(&command.encode(), features);
            assert_eq!(again, Ok(command));
            assert!(issue != CommandIssue::ReservedBits || command.encode() != *raw);
        }
    }
    decoded.is_ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((header, rest)) = data.split_at_checked(16) else {
        return;
    };
    let id = |n: usize| {
        u32::from_le_bytes([header[4 * n], header[4 * n + 1], header[4 * n + 2], header[4 * n + 3]])
    };
    let arbitrary = Features::decode(&IdRegisters {
        idr0: id(0),
        idr1: id(1),
        idr3: id(2),
        idr5: id(3),
    });
    let commands: Vec<RawCommand> = rest.chunks_exact(17).take(1 << LG2).map(command).collect();
    for raw in &commands {
        check_one(raw, &arbitrary);
    }

    // The same through registers and a queue in memory.
    let config = ModelConfig::default();
    let features = Features::decode(&config.ids);
    let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
    let clock = Arc::new(VirtualClock::default());
    let model = SmmuModel::new(memory.clone(), clock, config);
    model.write64(r::CMDQ_BASE, r::queue_base(PhysAddr(QUEUE), LG2, false));
    model.write32(r::CMDQ_PROD, 0);
    model.write32(r::CMDQ_CONS, 0);
    model.write32(r::CR0, r::CR0_CMDQEN);
    for (n, raw) in commands.iter().enumerate() {
        for (word, value) in raw.iter().enumerate() {
            let at = PhysAddr(QUEUE + 16 * n as u64 + 8 * word as u64);
            memory.write_u64(at, *value).unwrap();
        }
    }
    model.write32(r::CMDQ_PROD, commands.len() as u32);
    for (n, raw) in commands.iter().enumerate() {
        if check_one(raw, &features) {
            continue;
        }
        let cons = model.read32(r::CMDQ_CONS);
        assert_eq!(cons & 0xffff, n as u32, "stops at the first illegal command");
        assert_eq!(cons >> 24, 1, "CERROR_ILL");
        assert_ne!(model.read32(r::GERROR) & 1, model.read32(r::GERRORN) & 1);
        let sync = Command::SYNC.encode();
        for (word, value) in sync.iter().enumerate() {
            let at = PhysAddr(QUEUE + 16 * n as u64 + 8 * word as u64);
            memory.write_u64(at, *value).unwrap();
        }
        model.write32(r::GERRORN, model.read32(r::GERROR));
    }
    let cons = model.read32(r::CMDQ_CONS);
    assert_eq!(cons & 0xffff, commands.len() as u32, "everything else was consumed");
});
