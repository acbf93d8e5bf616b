//! A walk over arbitrary table memory: never panics, never reads outside of it,
//! and never yields an address beyond the output size.
#![no_main]

use dmabench_pgtable::{
    Format, MaliLpae, S1K4, S1K4Lpa2, S1K16, S1K64, S2K4, S2K16Lpa2, TableConfig, Walked, Walker,
};
use dmabench_platform::{Iova, PhysAddr};
use libfuzzer_sys::fuzz_target;

/// Where the memory lies; descriptors that point elsewhere point nowhere.
const BASE: u64 = 0x1_0000;

fn walk<F: Format>(config: TableConfig, root: u64, memory: &[u8], iovas: &[u64]) {
    let read = |at: PhysAddr| {
        assert_eq!(at.0 % 8, 0, "descriptors are read whole");
        let start = at.0.checked_sub(BASE)? as usize;
        let bytes = memory.get(start..start.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().unwrap()))
    };
    let mut walker = Walker::<F, _>::new(&config, PhysAddr(root), read).unwrap();
    for iova in iovas {
        if let Walked::Mapped(leaf) = walker.walk(Iova(*iova)) {
            assert!(leaf.paddr.0 >> config.oas == 0);
            assert!(leaf.page_bytes.is_power_of_two());
            let page = leaf.page_bytes - 1;
            if !leaf.contiguous {
                assert_eq!(leaf.paddr.0 & page, *iova & page);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if data.len() < 48 {
        return;
    }
    let (head, memory) = data.split_at(40);
    let word = |i: usize| u64::from_le_bytes(head[i * 8..i * 8 + 8].try_into().unwrap());
    let root = word(0) & !7;
    let root = if word(0) & 1 == 0 {
        BASE + root % 4096
    } else {
        root
    };
    let small = |i: usize| word(i) & 0xf_ffff_ffff_ffff >> (word(i) >> 58);
    let iovas = [word(1), small(1), small(2), small(3), small(4), 0];
    match word(0) >> 1 & 3 | (word(4) & 1) << 2 {
        0 => walk::<S1K4>(TableConfig::new(48, 48), root, memory, &iovas),
        1 => walk::<S1K64>(TableConfig::new(52, 52), root, memory, &iovas),
        2 => walk::<S1K4Lpa2>(TableConfig::new(52, 52), root, memory, &iovas),
        3 => walk::<S2K4>(TableConfig::new(40, 40), root, memory, &iovas),
        4 => walk::<S1K16>(TableConfig::new(47, 44), root, memory, &iovas),
        5 => walk::<S2K16Lpa2>(TableConfig::new(52, 52), root, memory, &iovas),
        6 => walk::<S1K4>(TableConfig::new(32, 32), root, memory, &iovas),
        _ => walk::<MaliLpae>(TableConfig::new(48, 40), root, memory, &iovas),
    }
});
