//! What Linux 7.2's own `io-pgtable-arm.c` produces, row by row. Provenance:
//! `data/README.md`.

mod common;

use common::{Fixture, arena::Arena};
use dmabench_pgtable::{Format, Prot, Quirks, S1K4, S1K16, S1K64, S2K4, S2K16, S2K64, TableConfig};
use dmabench_platform::PhysAddr;
use std::sync::Arc;

const GOLDEN: &str = include_str!("data/linux-lpae-golden.txt");

fn section(title: &str) -> impl Iterator<Item = &'static str> {
    GOLDEN
        .lines()
        .skip_while(move |line| !line.starts_with(title))
        .skip(1)
        .take_while(|line| !line.starts_with("# ") || line.starts_with("#  "))
        .filter(|line| !line.starts_with('#'))
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

type TestTable<F> = Fixture<F, Arc<Arena>>;

fn fixture<F: Format>(config: TableConfig) -> (TestTable<F>, Arc<Arena>) {
    let arena = Arc::new(Arena::new(0x1000_0000, 4 << 20));
    let f = Fixture::with_memory(config, arena.clone()).unwrap();
    (f, arena)
}

/// The geometry row as this crate sees it, in the file's own form.
fn geometry_row<F: Format>(granule: &str, stage: &str, ias: u32, oas: u32) -> String {
    let (f, _arena) = fixture::<F>(TableConfig::new(ias, oas));
    let (g, r) = (f.table.geometry(), f.table.registers());
    let sl0 = match stage {
        "S1" => -1,
        _ => i32::from(r.sl()),
    };
    // The register words hold the same fields.
    if stage == "S1" {
        let tcr = r.tcr_el1();
        assert_eq!(tcr & 0x3f, u64::from(r.tsz));
        assert_eq!(tcr >> 14 & 3, u64::from(r.tg()));
        assert_eq!(tcr >> 32 & 7, u64::from(r.output_size));
        assert_eq!(tcr >> 12 & 3, 3);
    } else {
        let vtcr = r.vtcr_el2();
        assert_eq!(vtcr >> 6 & 3, u64::from(r.sl()));
        assert_eq!(vtcr >> 14 & 3, u64::from(r.tg()));
        assert_eq!(vtcr >> 16 & 7, u64::from(r.output_size));
    }
    format!(
        "{granule},{stage},{ias},{oas},{},{},{},{},{},{},{sl0},0",
        g.start,
        g.root_bits,
        g.root_bytes(),
        r.tg(),
        r.tsz,
        r.output_size,
    )
}

#[test]
fn geometry_of_126_configurations() {
    let mut rows = 0;
    for row in section("# geometry") {
        let fields: Vec<_> = row.split(',').collect();
        let (ias, oas) = (number(fields[2]) as u32, number(fields[3]) as u32);
        let ours = match (fields[0], fields[1]) {
            ("4K", "S1") => geometry_row::<S1K4>("4K", "S1", ias, oas),
            ("16K", "S1") => geometry_row::<S1K16>("16K", "S1", ias, oas),
            ("64K", "S1") => geometry_row::<S1K64>("64K", "S1", ias, oas),
            ("4K", "S2") => geometry_row::<S2K4>("4K", "S2", ias, oas),
            ("16K", "S2") => geometry_row::<S2K16>("16K", "S2", ias, oas),
            ("64K", "S2") => geometry_row::<S2K64>("64K", "S2", ias, oas),
            other => panic!("unknown format {other:?}"),
        };
        assert_eq!(ours, row);
        rows += 1;
    }
    assert_eq!(rows, 126);
}

/// The descriptor of the leaf for `iova`, read from table memory by a walk of
/// the test's own: 9 bits a level from level 0.
fn descriptor_4k(f: &TestTable<impl Format>, arena: &Arena, iova: u64) -> u64 {
    let mut table = f.table.registers().ttb.0;
    for level in f.table.geometry().start.get()..=3 {
        let shift = 12 + 9 * (3 - level as u32);
        let index = if level == f.table.geometry().start.get() {
            iova >> shift
        } else {
            iova >> shift & 511
        };
        let descriptor = arena.read(PhysAddr(table + index * 8)).unwrap();
        if descriptor & 3 != 3 || level == 3 {
            return descriptor;
        }
        table = descriptor & 0xffff_ffff_f000;
    }
    unreachable!()
}

fn prot_row<F: Format>(quirk: Quirks, prot: u8) -> [String; 2] {
    let config = TableConfig::new(48, 48).with_quirks(quirk);
    let (f, arena) = fixture::<F>(config);
    let prot = Prot::from_bits(prot).unwrap();
    [(0x20_0000, 0x1000), (0x4000_0000, 0x20_0000)].map(|(iova, page)| {
        match f.map_pages(iova, 0, page, 1, prot) {
            Ok(()) => {
                let descriptor = descriptor_4k(&f, &arena, iova);
                // Reading back gives a protection that encodes the same.
                let back = f.translation(iova).unwrap().prot;
                let again = F::attrs(back, quirk).unwrap() | descriptor & 3;
                assert_eq!(again, descriptor, "{prot:?} came back as {back:?}");
                format!("{descriptor:#x}")
            }
            Err(_) => "ret=-22".to_string(),
        }
    })
}

#[test]
fn descriptors_of_320_protections() {
    let mut rows = 0;
    for row in section("# prot") {
        let fields: Vec<_> = row.split(',').collect();
        let quirk = match fields[1] {
            "none" => Quirks::NONE,
            "HD" => Quirks::ARM_HD,
            "NS" => Quirks::NS,
            "S2FWB" => Quirks::S2FWB,
            other => panic!("unknown quirk {other}"),
        };
        let prot = number(fields[2]) as u8;
        let ours = if fields[0] == "S1" {
            prot_row::<S1K4>(quirk, prot)
        } else {
            prot_row::<S2K4>(quirk, prot)
        };
        assert_eq!(ours, [fields[3], fields[4]], "{row}");
        rows += 1;
    }
    assert_eq!(rows, 320);
}

#[test]
fn packing_of_52_bit_addresses() {
    let (f, arena) = fixture::<S1K64>(TableConfig::new(52, 52));
    let (g, r) = (f.table.geometry(), f.table.registers());
    assert_eq!(
        (g.start.get(), g.root_bits, r.tsz, r.output_size),
        (1, 10, 12, 6)
    );
    let rw_cache = Prot::READ_WRITE | Prot::CACHE;
    let read = |iova: u64, level: i8| {
        let mut table = r.ttb.0;
        for at in 1..=level {
            let shift = 16 + 13 * (3 - at as u32);
            let index = if at == 1 {
                iova >> shift
            } else {
                iova >> shift & 8191
            };
            let descriptor = arena.read(PhysAddr(table + index * 8)).unwrap();
            if at == level {
                return descriptor;
            }
            table = descriptor & 0xffff_ffff_0000 | (descriptor >> 12 & 0xf) << 48;
        }
        unreachable!()
    };
    let mut rows = 0;
    for row in section("# 52-bit") {
        let value = |name: &str| {
            row.split(' ')
                .find_map(|field| field.strip_prefix(name))
                .map(number)
        };
        if row.starts_with("4TB") {
            // The row shows that the block maps PA 0xc0000000000 at itself.
            let at = 0xc00_0000_0000;
            f.map_pages(at, at, 1 << 42, 1, rw_cache).unwrap();
            assert_eq!(read(at, 1), value("pte=").unwrap());
            assert_eq!(f.phys(at + 5), value("back="));
        } else {
            let (iova, pa) = (0x1_0000 * (rows + 1), value("pa=").unwrap());
            f.map_pages(iova, pa, 0x1_0000, 1, rw_cache).unwrap();
            assert_eq!(read(iova, 3), value("pte=").unwrap(), "{row}");
            assert_eq!(f.phys(iova + 0x42), Some(pa + 0x42));
            assert_eq!(value("back="), Some(pa + 0x42));
        }
        rows += 1;
    }
    assert_eq!(rows, 7);
}
