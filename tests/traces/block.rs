//! Block traces become the map and unmap calls of an SD host. The samples here
//! are made, by hand or by the test: they follow the formats as the sources of
//! blkparse 1.3 and fio 3.38 print them, and were recorded nowhere.

use std::{io::Write, path::Path};

use dmabench::{
    trace::{Options, TraceError, read_bytes, read_file},
    workload::{Direction, HostLimits, Step, Workload},
};
use proptest::prelude::*;

fn read(text: &str) -> Result<Workload, TraceError> {
    let lenient = Options::default();
    read_bytes(text.as_bytes(), Path::new("t.txt"), "made", lenient)
}

/// What happens, e.g. `+0w8 +1r1 -0 -1`: request, direction, pages.
fn story(workload: &Workload) -> String {
    let each = workload.steps().iter().map(|step| match *step {
        Step::Map(number) => {
            let request = &workload.requests()[number as usize];
            let direction = match request.direction {
                Direction::ToDevice => 'w',
                Direction::FromDevice => 'r',
                Direction::Bidirectional => '?',
            };
            format!("+{number}{direction}{}", request.bytes.div_ceil(4096))
        }
        Step::Unmap(number) => format!("-{number}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// Made. A write and its journal record overlapping, a flush, a discard, a
/// pass-through command, a requeue, messages, and the summary.
const BLKPARSE: &str = "\
Input file mmcblk0.blktrace.0 added
179,0    0        1     0.000000000   697  Q   W 223488 + 8 [jbd2/mmcblk0p2 1]
179,0    0        2     0.000001829   697  P   N [jbd2/mmcblk0p2 1]
179,0    0        3     0.000002197   697  D   W 223488 + 8 [jbd2/mmcblk0p2 1]
179,0    0        0     0.000002500     0  m   N cfq697S / alloced
179,0    0        4     0.000003000   697  D WSM 4096 + 56 [jbd2/mmcblk0p2 1]
179,0    1        5     0.001000000     0  C   W 223488 + 8 [0]
179,0    1        6     0.001500000     0  C WSM 4096 + 56 [0]
179,0    0        7     0.002000000   697  D  FN [jbd2/mmcblk0p2 1]
179,0    0        8     0.003000000     0  C  FN 0 [0]
179,0    0        9     0.011500000    11  D   D 8192 + 2048 [fstrim]
179,0    0       10     0.011600000     0  C   D 8192 + 2048 [0]
179,0    0       11     0.011700000    12  D   R 36 (12 00 00 00 24 00 ..) [scsi_id]
179,0    0       12     0.011800000     0  C   R (12 00 00 00 24 00 ..) [0]
179,0    0       13     0.011900000    13  D  RA 0 + 1 [dd]
179,0    0       14     0.012000000    13  R  RA 0 + 1 [0]
179,0    0       15     0.012100000    13  D  RA 0 + 1 [dd]
179,0    0       16     0.012200000     0  C  RA 0 + 1 [0]
CPU0 (179,0):
 Reads Queued:           1,        0KiB\t Writes Queued:           1,        4KiB

Throughput (R/W): 0KiB/s / 2,333KiB/s
Events (179,0): 25 entries
Skips: 2 forward (1,217 -   4.9%)
";

#[test]
fn blkparse_lines_become_requests() {
    let w = read(BLKPARSE).unwrap();
    assert_eq!(story(&w), "+0w1 +1w7 -0 -1 +2r1 -2 +3r1 -3");
    assert_eq!(w.bytes(), 4096 + 28_672 + 512 + 512);
    // 1.5 ms to 11.9 ms: nothing mapped.
    assert_eq!((w.idle_ns(1), w.idle_ns(2)), (0, 10_400_000));
    let parse = w.parse.as_ref().unwrap();
    assert_eq!(parse.devices, ["179,0"]);
    assert_eq!((parse.cpus, parse.events, parse.damaged_lines), (2, 14, 0));
    assert_eq!(
        (parse.lost_events, parse.unmatched_unmaps, parse.left_mapped),
        (1217, 0, 0)
    );
    // One line of each action above the driver, and the summary's.
    assert_eq!(parse.lines, 24);
    assert_eq!(parse.unknown_lines, 8);
    assert!(format!("{:?}", w.source).contains("\"blkparse\""));
    assert!(
        w.description.contains("memory made up"),
        "{}",
        w.description
    );
}

#[test]
fn what_an_sd_host_cannot_take_at_once_is_split() {
    // 1.25 MiB, on a host that could take it at once.
    let text = "8,0 0 1 0.000000001 1 D R 2048 + 2560 [dd]\n\
                8,0 0 2 0.000000002 1 C R 2048 + 2560 [0]\n";
    let w = read(text).unwrap();
    assert_eq!(story(&w), "+0r128 +1r128 +2r64 -0 -1 -2");
    for request in w.requests() {
        assert!(w.segments(request).len() <= HostLimits::SDHCI.segments);
    }
}

#[test]
fn completions_may_come_in_parts_late_twice_or_never() {
    let line = |action: &str, sector: u32, sectors: u32| {
        format!("8,0 0 1 0.000000001 1 {action} R {sector} + {sectors} [x]\n")
    };
    let parts = [line("D", 0, 64), line("C", 0, 8), line("C", 8, 56)].concat();
    assert_eq!(story(&read(&parts).unwrap()), "+0r8 -0");
    // The trace began later, one request is read twice at once, one is lost.
    let odd = [
        line("C", 99, 8),
        line("D", 0, 8),
        line("D", 0, 8),
        line("C", 0, 8),
        line("D", 8, 8),
        line("C", 0, 8),
        line("C", 0, 8),
    ];
    let w = read(&odd.concat()).unwrap();
    assert_eq!(story(&w), "+0r1 +1r1 -0 +2r1 -1 -2");
    let parse = w.parse.unwrap();
    assert_eq!((parse.unmatched_unmaps, parse.left_mapped), (2, 1));
    // Nothing but issues says nothing about unmaps.
    let refused = read(&line("D", 0, 8)).unwrap_err().to_string();
    assert!(refused.contains("completions (action C)"), "{refused}");
    let refused = read(&line("Q", 0, 8)).unwrap_err().to_string();
    assert!(
        refused.contains("action D") && refused.contains("blktrace -a issue"),
        "{refused}"
    );
}

#[test]
fn lost_completions_do_not_pile_up() {
    let issues: String = (0..40_000)
        .map(|i| format!("8,0 0 1 0.000000001 1 D W {} + 8 [x]\n", i * 8))
        .collect();
    let w = read(&(issues + "8,0 0 1 0.000000001 1 C W 319992 + 8 [x]\n")).unwrap();
    assert_eq!(w.requests().len(), 40_000);
    assert_eq!(w.live_max, 1 << 14);
    assert_eq!(w.parse.unwrap().left_mapped, 39_999);
}

/// Made. What fio 3.x writes with `--write_iolog`.
const IOLOG_V3: &str = "\
fio version 3 iolog
0 /dev/mmcblk0 add
2 /dev/mmcblk0 open
10 /dev/mmcblk0 read 0 131072
11 /dev/mmcblk0 read 131072 131072
12 /dev/mmcblk0 write 262144 4096
5000 /dev/mmcblk0 sync 0 0
25000 /dev/mmcblk0 write 8192 1000
25010 /dev/mmcblk0 trim 0 4096
25020 /dev/mmcblk0 close
";

#[test]
fn an_iolog_becomes_requests_of_a_host_with_two_in_flight() {
    let w = read(IOLOG_V3).unwrap();
    assert_eq!(story(&w), "+0r32 +1r32 -0 +2w1 -1 -2 +3w1 -3");
    assert_eq!(w.requests()[3].bytes, 1024, "whole sectors");
    assert_eq!(w.live_max, 2);
    // 10 us before the first; the three are done after 10 + 469 + 469 + 45 us.
    assert_eq!(w.idle_ns(0), 10_000);
    let idle = w.idle_ns(3);
    assert!((24_000_000..24_020_000).contains(&idle), "{idle}");
    let parse = w.parse.as_ref().unwrap();
    assert_eq!(
        (parse.events, parse.damaged_lines, parse.unknown_lines),
        (9, 0, 0)
    );
    assert!(format!("{:?}", w.source).contains("fio iolog v3"));
}

#[test]
fn an_older_iolog_waits_by_the_line() {
    let text = "fio version 2 iolog\n/tmp/a add\n/tmp/a open\n/tmp/a read 0 4096\n\
                /tmp/b write 4096 8192\n/tmp/a wait 2000\n/tmp/a read 8192 1048576\n\
                /tmp/a datasync 0 0\n/tmp/a close\n";
    let w = read(text).unwrap();
    assert_eq!(story(&w), "+0r1 +1w2 -0 -1 +2r128 +3r128 -2 -3");
    assert_eq!(
        (w.idle_ns(0), w.idle_ns(1), w.idle_ns(2)),
        (0, 0, 2_000_000)
    );
    assert_eq!(w.devices, ["fio"], "files of one device");
    assert!(format!("{:?}", w.source).contains("fio iolog v2"));
}

#[test]
fn damaged_lines_are_named_and_strict_parsing_refuses_them() {
    let blkparse = BLKPARSE.replacen("D WSM 4096 + 56 [jbd2/mmcblk0p2 1]", "D WSM 4096 + 5", 1);
    let iolog = IOLOG_V3.replacen("read 131072 131072", "read 131072", 1);
    let iolog_2 = "fio version 2 iolog\na read 0 4096\na rea\na read 0 0\na read x 1\n\
                   a read 18446744073709551615 1\na read 0 1073741825\na\n";
    for (text, damaged, first) in [
        (
            blkparse.as_str(),
            1,
            "t.txt:6: `[process]` is missing (line cut?)",
        ),
        (
            iolog.as_str(),
            1,
            "t.txt:5: `length` is missing (line cut?)",
        ),
        (iolog_2, 6, "t.txt:3: unknown action (line cut?)"),
    ] {
        let parse = read(text).unwrap().parse.unwrap();
        assert_eq!(parse.damaged_lines, damaged, "{parse:?}");
        assert_eq!(parse.damaged_examples[0], first);
        let strict = Options { strict: true };
        let refused = read_bytes(text.as_bytes(), Path::new("t.txt"), "", strict).unwrap_err();
        assert!(refused.to_string().starts_with(first), "{refused}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_advice() {
    for (text, words) in [
        ("fio version 1 iolog\nread 0 4096\n", "version 2 or 3"),
        (
            "fio version 3 iolog\n1 a trim 0 4096\n",
            "no reads or writes",
        ),
        ("\x07tae and more", "blkparse -i"),
        ("just words\n", "nor is it blkparse text or a fio iolog"),
    ] {
        let refused = read(text).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn the_content_tells_the_form_not_the_name() {
    // A lost header, many input files named first, a Windows line end.
    let many: String = (0..200)
        .map(|cpu| format!("Input file sda.blktrace.{cpu} added\r\n"))
        .collect();
    let w = read(&(many + &BLKPARSE.replace('\n', "\r\n"))).unwrap();
    assert_eq!(w.requests().len(), 4);
    for name in ["x.ftrace", "trace.dat", "y.gz"] {
        let strict = Options { strict: true };
        let w = read_bytes(IOLOG_V3.as_bytes(), Path::new(name), "", strict).unwrap();
        assert_eq!(w.requests().len(), 4, "{name}");
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn zstd_is_read_as_the_plain_text_is() {
    let plain = read(BLKPARSE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.txt.zst");
    std::fs::write(&path, zstd(BLKPARSE.as_bytes())).unwrap();
    let packed = read_file(&path, Options { strict: true }).unwrap();
    assert_eq!(packed.digest(), plain.digest());
    assert_eq!(packed.name, "mine");
    assert!(format!("{:?}", packed.source).contains("blkparse, zstd"));
    // Frames one behind the other, with one to be skipped first and in between;
    // a line goes on in the next frame.
    let (head, tail) = BLKPARSE.as_bytes().split_at(500);
    let skipped = [
        &0x184d_2a50_u32.to_le_bytes()[..],
        &3_u32.to_le_bytes(),
        b"abc",
    ]
    .concat();
    let frames = [&skipped[..], &zstd(head), &skipped, &zstd(tail)].concat();
    let w = read_bytes(&frames, Path::new("f"), "", Options { strict: true }).unwrap();
    assert_eq!(w.digest(), plain.digest());
}

#[test]
fn damaged_zstd_keeps_what_was_there() {
    let text: String = (0..60_000)
        .map(|i| format!("{i} f read {} 4096\n", i * 4096))
        .collect();
    let text = format!("fio version 3 iolog\n{text}");
    let whole = zstd(text.as_bytes());
    let read = |bytes: &[u8]| read_bytes(bytes, Path::new("f"), "", Options::default());
    let half = read(&whole[..whole.len() / 2]).unwrap();
    assert!((15_000..45_000).contains(&half.requests().len()));
    let parse = half.parse.unwrap();
    assert_eq!(parse.damaged_lines, 1, "{parse:?}");
    assert!(parse.damaged_examples[0].contains("compressed data"));
    // A wrong checksum, nothing but a head, packed twice, packed nothing.
    let mut wrong = zstd(BLKPARSE.as_bytes());
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(read(&wrong).unwrap().parse.unwrap().damaged_lines, 1);
    assert!(matches!(read(&whole[..5]), Err(TraceError::Zstd { .. })));
    let twice = read(&zstd(&zstd(b"abc"))).unwrap_err().to_string();
    assert!(twice.contains("zstd -d"), "{twice}");
    assert!(matches!(read(&zstd(b"")), Err(TraceError::Empty(_))));
}

/// Each request is mapped once and unmapped once, within the host's limits.
fn check(workload: &Workload) {
    let mut places = vec![None; workload.live_max as usize];
    for step in workload.steps() {
        match *step {
            Step::Map(number) => {
                let request = &workload.requests()[number as usize];
                assert_eq!(places[request.place as usize].replace(number), None);
                let list = workload.segments(request);
                assert!((1..=HostLimits::SDHCI.segments).contains(&list.len()));
                assert!(request.bytes <= HostLimits::SDHCI.request_bytes);
                assert_eq!(list.iter().map(|s| s.len_bytes).sum::<u64>(), request.bytes);
            }
            Step::Unmap(number) => {
                let place = workload.requests()[number as usize].place as usize;
                assert_eq!(places[place].take(), Some(number));
            }
        }
    }
    assert!(places.iter().all(Option::is_none));
    assert_eq!(workload.steps().len(), 2 * workload.requests().len());
}

/// Fields that may be anything, often small enough to meet again.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => (0_u64..6).prop_map(|n| n * 8), 1 => 0..5000_u64, 1 => any::<u64>()]
}

fn blkparse_line() -> impl Strategy<Value = String> {
    let action = prop::sample::select(vec!["D", "D", "C", "C", "R", "Q", "m"]);
    let rwbs = prop::sample::select(vec!["R", "W", "WS", "RA", "FWFS", "D", "F", "N", "x"]);
    (action, rwbs, number(), number(), 0..2_u8, any::<u32>()).prop_map(
        |(action, rwbs, sector, sectors, device, ns)| {
            let ns = ns % 1_000_000_000;
            format!("8,{device} 0 1 0.{ns:09} 1 {action} {rwbs} {sector} + {sectors} [x]\n")
        },
    )
}

fn iolog_line() -> impl Strategy<Value = String> {
    let actions = vec!["read", "write", "wait", "sync", "trim", "close", "what"];
    (
        prop::sample::select(actions),
        number(),
        number(),
        number(),
        any::<bool>(),
    )
        .prop_map(|(action, at, offset, length, timed)| {
            let length = length.min(20 << 20);
            if timed {
                format!("{at} f {action} {offset} {length}\n")
            } else {
                format!("f {action} {offset} {length}\n")
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_block_events_give_a_sound_workload(
        lines in prop::collection::vec(blkparse_line(), 0..150),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = lines.concat();
        for text in [&text[..], &text[..cut.index(text.len() + 1)]] {
            if let Ok(workload) = read(text) {
                check(&workload);
            }
        }
    }

    #[test]
    fn any_iolog_gives_a_sound_workload(
        version in 2..4_u8,
        lines in prop::collection::vec(iolog_line(), 0..100),
    ) {
        let text = format!("fio version {version} iolog\n{}", lines.concat());
        if let Ok(workload) = read(&text) {
            check(&workload);
            prop_assert!(workload.live_max <= 2);
        }
    }

    #[test]
    fn any_zstd_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let framed = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
        if let Ok(workload) = read_bytes(&framed, Path::new("f"), "", Options::default()) {
            check(&workload);
        }
    }

    /// A frame with some bytes changed still ends in a workload or an error.
    #[test]
    fn changed_zstd_bytes_are_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut framed = zstd(BLKPARSE.as_bytes());
        for (at, byte) in edits {
            let at = at.index(framed.len());
            framed[at] = byte;
        }
        if let Ok(workload) = read_bytes(&framed, Path::new("f"), "", Options::default()) {
            check(&workload);
        }
    }
}

/// Large files are mapped and read in pieces; a line may lie across two.
#[test]
fn a_large_block_trace_is_read_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    // Long names, so that few lines are many bytes.
    let text: String = (0..20_000)
        .flat_map(|i| {
            let at = i * 8;
            [
                format!("8,0 0 1 0.{i:09} 1 D W {at} + 8 [{:400}]\n", "writer"),
                format!("8,0 0 1 0.{i:09} 1 C W {at} + 8 [0]\n"),
            ]
        })
        .collect();
    assert!(text.len() > 8 << 20);
    let plain = dir.path().join("plain.txt");
    std::fs::write(&plain, &text).unwrap();
    let packed = dir.path().join("packed.gz");
    let file = std::fs::File::create(&packed).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
    let digests = [plain, packed].map(|path| {
        let w = read_file(&path, Options { strict: true }).unwrap();
        assert_eq!(w.requests().len(), 20_000);
        w.digest()
    });
    assert_eq!(digests[0], digests[1]);
}
