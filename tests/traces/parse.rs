//! The trace reader is total: whatever stands in a file gives a workload or a
//! typed error, and damage costs the damaged line only.

use std::{path::Path, sync::LazyLock};

use dmabench::{
    trace::{Options, TraceError, read_bytes, shipped},
    workload::{Step, Workload},
};
use proptest::prelude::*;

const LENIENT: Options = Options { strict: false };

fn read(bytes: &[u8]) -> Result<Workload, TraceError> {
    read_bytes(bytes, Path::new("t.txt"), "", LENIENT)
}

fn check(workload: &Workload) {
    let mut live = 0;
    let mut mapped = vec![0; workload.requests().len()];
    for step in workload.steps() {
        match *step {
            Step::Map(r) => {
                mapped[r as usize] += 1;
                live += 1;
            }
            Step::Unmap(r) => {
                mapped[r as usize] -= 1;
                live -= 1;
            }
        }
        assert!(live <= workload.live_max);
    }
    assert_eq!(live, 0);
    assert!(mapped.iter().all(|m| *m == 0));
    assert_eq!(workload.steps().len(), 2 * workload.requests().len());
}

/// A list that the kernel cut, in the last page of the address space: rounding
/// its end up to a page would leave 64 bits.
#[test]
fn a_truncated_list_at_the_end_of_the_space_does_not_wrap() {
    let text = "t-1 [000] ..... 1.5: map: IOMMU: iova=0xfffffffffffff000 - 0xfffffffffffffff0 \
         paddr=0x1000 size=4080\n\
         t-1 [000] ..... 1.6: map: IOMMU: iova=0x0 - 0x1000 paddr=0x7000 size=4096\n\
         t-1 [000] ..... 1.7: dma_map_sg: d dir=FROM_DEVICE dma_addrs={0xfffffffffffff000} \
         sizes={0x100} phys_addrs={0x1000} [TRUNCATED] attrs=\n";
    let workload = read(text.as_bytes()).unwrap();
    check(&workload);
    assert_eq!(workload.bytes(), 0x100, "nothing of address 0 is appended");
}

/// Lines in the forms that matter, with fields that may be anything.
fn line() -> impl Strategy<Value = String> {
    let number = || {
        prop_oneof![
            4 => (0_u64..16).prop_map(|page| page * 0x1000),
            1 => any::<u64>(),
            1 => Just(u64::MAX),
        ]
    };
    let event = (number(), number(), number(), 0..9_u8).prop_map(|(a, b, len, kind)| {
        let end = a.wrapping_add(len);
        match kind {
            0 => format!("map: IOMMU: iova={a:#x} - {end:#x} paddr={b:#x} size={len}"),
            1 => format!("unmap: IOMMU: iova={a:#x} - {end:#x} size={len} unmapped_size={len}"),
            2 => format!(
                "dma_map_page: d{} dir=TO_DEVICE dma_addr={a:x} size={len} phys_addr={b:x} attrs=",
                len % 3
            ),
            3 => format!("dma_unmap_page: d dir=TO_DEVICE dma_addr={a:x} size={len} attrs="),
            4 => format!(
                "dma_map_sg: d dir=FROM_DEVICE nents=2/2 ents=1/1 dma_addrs={{{a:#x}}} \
                 sizes={{{len:#x}}} phys_addrs={{{a:#x},{b:#x}}} attrs="
            ),
            5 => format!(
                "dma_map_sg: d dir=BIDIRECTIONAL nents=1/9 ents=1/9 [TRUNCATED] \
                 dma_addrs={{{a:#x}}} sizes={{{len:#x}}} phys_addrs={{{b:#x}}} attrs="
            ),
            6 => format!("dma_unmap_sg: d dir=FROM_DEVICE phys_addrs={{{a:#x},{b:#x}}} attrs="),
            7 => format!("block_rq_issue: 179,0 W {len} () {a} + 8 [t]"),
            _ => format!("other: {a}"),
        }
    });
    (0..4_u8, event).prop_map(|(cpu, event)| format!("  t-1  [00{cpu}] .....  1.5: {event}\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        if let Ok(workload) = read(&bytes) {
            check(&workload);
        }
    }

    #[test]
    fn any_events_give_a_sound_workload(lines in prop::collection::vec(line(), 0..200)) {
        if let Ok(workload) = read(lines.concat().as_bytes()) {
            check(&workload);
        }
    }

    /// A trace with some bytes changed, and cut somewhere, is still read.
    #[test]
    fn damage_costs_the_damaged_line_only(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        keep in 0.5_f64..1.0,
    ) {
        static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| text("sd-strict-seqwrite_64k_direct"));
        let whole = &*WHOLE;
        let mut bytes = whole[..(whole.len() as f64 * keep) as usize].to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match read(&bytes) {
            Ok(workload) => {
                check(&workload);
                // A damaged line costs its own request at most.
                prop_assert!(workload.requests().len() + 20 >= map_lines(&bytes));
            }
            // A NUL near the head makes it binary.
            Err(error) => prop_assert!(bytes[..4096].contains(&0), "{error}"),
        }
    }
}

fn map_lines(bytes: &[u8]) -> usize {
    (bytes.split(|b| *b == b'\n'))
        .filter(|line| line.windows(12).any(|w| w == b" dma_map_sg:"))
        .count()
}

fn packed(name: &str) -> Vec<u8> {
    let file = format!("traces/{name}.txt.gz");
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn text(name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    let packed = packed(name);
    let mut decoder = flate2::read::GzDecoder::new(&packed[..]);
    std::io::Read::read_to_end(&mut decoder, &mut text).unwrap();
    text
}

#[test]
fn a_damaged_line_is_named_and_strict_parsing_refuses_it() {
    let mut text = String::from_utf8(text("sd-strict-seqread_64k_direct")).unwrap();
    text = text.replacen("sizes={0x10000}", "sizes={0x1000", 1);
    text.push_str("CPU:0 [LOST 12 EVENTS]\n  what is this\n");
    let path = Path::new("some/trace.txt");
    let parse = read_bytes(text.as_bytes(), path, "", LENIENT)
        .unwrap()
        .parse
        .unwrap();
    assert_eq!(
        (parse.damaged_lines, parse.lost_events, parse.unknown_lines),
        (1, 12, 1)
    );
    assert_eq!(
        parse.damaged_examples,
        ["some/trace.txt:17: a list is not closed (line cut?)"]
    );
    let refused = read_bytes(text.as_bytes(), path, "", Options { strict: true });
    let message = refused.unwrap_err().to_string();
    assert!(
        message.starts_with("some/trace.txt:17: a list is not closed"),
        "{message}"
    );
}

#[test]
fn gzip_that_ends_early_keeps_what_was_there() {
    let bytes = packed(shipped::ALL[0].name);
    let whole = read(&bytes).unwrap();
    let half = read(&bytes[..bytes.len() / 2]).unwrap();
    check(&half);
    assert!(half.requests().len() > whole.requests().len() / 4);
    assert!(half.requests().len() < whole.requests().len());
    let parse = half.parse.unwrap();
    assert_eq!(parse.damaged_lines, 1);
    assert!(parse.damaged_examples[0].contains("compressed data"));
    assert!(matches!(read(&bytes[..8]), Err(TraceError::Gzip { .. })));
}

/// Large files are mapped, packed ones and pipes are read in pieces; all give
/// what the bytes in memory give.
#[test]
fn every_way_to_the_bytes_gives_the_same_requests() {
    let text = text("sd-strict-seqread_1m_buffered").repeat(12);
    assert!(text.len() > 8 << 20, "several pieces of 4 MiB");
    let whole = read(&text).unwrap();
    assert_eq!(whole.requests().len(), 12 * 33);
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain.txt");
    std::fs::write(&plain, &text).unwrap();
    let packed = dir.path().join("packed.txt.gz");
    let file = std::fs::File::create(&packed).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &text).unwrap();
    encoder.finish().unwrap();
    for path in [plain, packed] {
        let other = dmabench::trace::read_file(&path, Options { strict: true }).unwrap();
        assert_eq!(other.steps(), whole.steps(), "{}", path.display());
        assert_eq!(other.requests(), whole.requests());
        assert_eq!(
            other.parse.as_ref().map(|p| p.lines),
            whole.parse.as_ref().map(|p| p.lines)
        );
    }
}
