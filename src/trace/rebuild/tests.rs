//! Small traces, each with one difficulty.

use std::path::Path;

use crate::{
    trace::{Options, read_bytes, shipped},
    workload::{Direction, Step, Workload},
};

fn read(text: &str) -> Workload {
    let options = Options { strict: true };
    read_bytes(text.as_bytes(), Path::new("t.txt"), "", options).unwrap()
}

/// Lines `cpu event`, framed.
fn trace(lines: &[&str]) -> Workload {
    let framed: Vec<String> = (lines.iter())
        .map(|line| {
            let (cpu, event) = line.split_once(' ').unwrap();
            format!("    t-1     [00{cpu}] .....    1.000001: {event}\n")
        })
        .collect();
    read(&framed.concat())
}

fn map(iova: u64, phys: u64, len: u64) -> String {
    let end = iova + len;
    format!("map: IOMMU: iova={iova:#x} - {end:#x} paddr={phys:#x} size={len}")
}

fn unmap(iova: u64, len: u64) -> String {
    let end = iova + len;
    format!("unmap: IOMMU: iova={iova:#x} - {end:#x} size={len} unmapped_size={len}")
}

fn pieces(workload: &Workload, request: usize) -> Vec<(u64, u64)> {
    (workload.segments(&workload.requests()[request]).iter())
        .map(|s| (s.phys.0, s.len_bytes))
        .collect()
}

#[test]
fn page_and_phys_calls_unmap_before_their_dma_line() {
    for (map_name, unmap_name) in [
        ("dma_map_page", "dma_unmap_page"),
        ("dma_map_phys", "dma_unmap_phys"),
    ] {
        let w = trace(&[
            &format!("0 {}", map(0xffea_0000, 0x487d_4000, 8192)),
            &format!(
                "0 {map_name}: d dir=FROM_DEVICE dma_addr=ffea0200 size=4096 phys_addr=487d4200 attrs="
            ),
            &format!("1 {}", unmap(0xffea_0000, 8192)),
            // Mapped again before the line of the first unmap is printed.
            &format!("0 {}", map(0xffea_0000, 0x487d_4000, 8192)),
            &format!(
                "0 {map_name}: d dir=FROM_DEVICE dma_addr=ffea0200 size=4096 phys_addr=487d4200 attrs="
            ),
            &format!("1 {unmap_name}: d dir=FROM_DEVICE dma_addr=ffea0200 size=4096 attrs="),
            &format!("1 {}", unmap(0xffea_0000, 8192)),
            &format!("1 {unmap_name}: d dir=FROM_DEVICE dma_addr=ffea0200 size=4096 attrs="),
        ]);
        use Step::{Map, Unmap};
        assert_eq!(w.steps(), [Map(0), Unmap(0), Map(1), Unmap(1)]);
        assert_eq!(pieces(&w, 0), [(0x487d_4200, 4096)]);
        assert_eq!(w.parse.unwrap().unmatched_unmaps, 0);
    }
}

#[test]
fn a_truncated_list_gets_its_pages_from_the_map_lines() {
    let mut lines: Vec<String> = (0..200)
        .map(|i| {
            format!(
                "0 {}",
                map(0x10_0000 + i * 4096, 0x4000_0000 + i * 8192, 4096)
            )
        })
        .collect();
    // A neighbour of another processor, mapped at the same time.
    lines.push(format!(
        "1 {}",
        map(0x10_0000 + 200 * 4096, 0x7000_0000, 4096)
    ));
    let list = |f: &dyn Fn(u64) -> u64| -> String {
        let items: Vec<String> = (0..128).map(|i| format!("{:#x}", f(i))).collect();
        format!("{{{}}}", items.join(","))
    };
    lines.push(format!(
        "0 dma_map_sg: d dir=TO_DEVICE nents=128/200 ents=128/200 [TRUNCATED] dma_addrs={} sizes={} phys_addrs={} attrs=",
        list(&|i| 0x10_0000 + i * 4096),
        list(&|_| 4096),
        list(&|i| 0x4000_0000 + i * 8192),
    ));
    lines.push(format!("0 {}", unmap(0x10_0000, 200 * 4096)));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let w = trace(&lines);
    assert_eq!(w.requests().len(), 1);
    assert_eq!(w.requests()[0].bytes, 200 * 4096);
    assert_eq!(pieces(&w, 0).len(), 200);
    let parse = w.parse.unwrap();
    assert_eq!(parse.truncated_lists, 1);
    assert_eq!(parse.left_mapped, 0);
}

#[test]
fn two_devices_at_one_address_are_told_apart() {
    let sg = |device: &str, phys: u64| {
        format!(
            "dma_map_sg: {device} dir=TO_DEVICE nents=1/1 ents=1/1 dma_addrs={{0x1000}} sizes={{0x1000}} phys_addrs={{{phys:#x}}} attrs="
        )
    };
    let un = |device: &str, phys: u64| {
        format!("dma_unmap_sg: {device} dir=TO_DEVICE phys_addrs={{{phys:#x}}} attrs=")
    };
    let w = trace(&[
        &format!("0 {}", map(0x1000, 0xa000, 4096)),
        &format!("1 {}", map(0x1000, 0xb000, 4096)),
        &format!("1 {}", sg("b", 0xb000)),
        &format!("0 {}", sg("a", 0xa000)),
        &format!("1 {}", un("a", 0xa000)),
        &format!("0 {}", un("b", 0xb000)),
        &format!("1 {}", unmap(0x1000, 4096)),
        &format!("0 {}", unmap(0x1000, 4096)),
    ]);
    assert_eq!(w.devices, ["b", "a"]);
    assert_eq!(pieces(&w, 0), [(0xb000, 4096)]);
    assert_eq!(pieces(&w, 1), [(0xa000, 4096)]);
    use Step::{Map, Unmap};
    assert_eq!(w.steps(), [Map(0), Map(1), Unmap(1), Unmap(0)]);
    assert_eq!(w.live_max, 2);
}

#[test]
fn without_dma_lines_the_requests_come_out_the_same() {
    for name in [
        "sd-strict-ext4_write_fsync",
        "sd-strict-seqread_1m_buffered",
        "nvme-lazy-seqread128k_4procs",
    ] {
        let shipped = shipped::ALL.iter().find(|s| s.name == name).unwrap();
        let text = shipped.text();
        let whole = read(&text);
        let older: String = (text.lines())
            .filter(|l| !l.contains(" dma_"))
            // Nor had they priorities.
            .map(|l| l.replace(" be,0,4 ", " ") + "\n")
            .collect();
        let rebuilt = read(&older);
        let facts = |w: &Workload| -> Vec<(u64, Direction)> {
            (w.requests().iter())
                .map(|r| (r.bytes, r.direction))
                .collect()
        };
        assert_eq!(facts(&rebuilt), facts(&whole), "{name}");
        // With two processors the `dma:` line of a map may stand behind another
        // request's unmap, its last `map` line before it: both are true.
        if !name.starts_with("nvme") {
            assert_eq!(rebuilt.steps(), whole.steps(), "{name}");
        }
        assert!(rebuilt.description.contains("rebuilt"), "{name}");
    }
}

#[test]
fn without_iommu_lines_the_dma_lines_are_enough() {
    let shipped = &shipped::ALL[0];
    let text = shipped.text();
    let whole = read(&text);
    for left_out in [" IOMMU: ", ": map: "] {
        let rest: String = (text.lines())
            .filter(|l| !l.contains(left_out))
            .map(|l| format!("{l}\n"))
            .collect();
        let rebuilt = read(&rest);
        assert_eq!(rebuilt.steps(), whole.steps());
        assert_eq!(rebuilt.bytes(), whole.bytes());
        assert_eq!(rebuilt.parse.unwrap().unmatched_unmaps, 0);
        assert!(rebuilt.description.contains("guessed"));
    }
}

#[test]
fn a_trace_that_starts_late_and_ends_early() {
    let w = trace(&[
        &format!("0 {}", unmap(0x5000, 4096)),
        &format!("0 {}", map(0x1000, 0xa000, 4096)),
        "0 dma_map_page: d dir=TO_DEVICE dma_addr=1000 size=4096 phys_addr=a000 attrs=",
    ]);
    assert_eq!(w.steps(), [Step::Map(0), Step::Unmap(0)]);
    let parse = w.parse.unwrap();
    assert_eq!((parse.unmatched_unmaps, parse.left_mapped), (1, 1));
}

#[test]
fn a_lost_unmap_ends_when_the_address_comes_back() {
    let page = "0 dma_map_page: d dir=TO_DEVICE dma_addr=1000 size=4096 phys_addr=a000 attrs=";
    let w = trace(&[
        &format!("0 {}", map(0x1000, 0xa000, 4096)),
        page,
        &format!("0 {}", map(0x1000, 0xa000, 4096)),
        page,
        &format!("0 {}", unmap(0x1000, 4096)),
    ]);
    use Step::{Map, Unmap};
    assert_eq!(w.steps(), [Map(0), Unmap(0), Map(1), Unmap(1)]);
    assert_eq!(w.parse.unwrap().left_mapped, 1);
}

#[test]
fn coherent_memory_is_neither_a_request_nor_unmatched() {
    let w = trace(&[
        &format!("0 {}", map(0x9000, 0xc000, 8192)),
        &format!("0 {}", map(0x1000, 0xa000, 4096)),
        "0 dma_map_page: d dir=TO_DEVICE dma_addr=1000 size=4096 phys_addr=a000 attrs=",
        &format!("0 {}", unmap(0x9000, 8192)),
        &format!("0 {}", unmap(0x1000, 4096)),
    ]);
    assert_eq!(w.requests().len(), 1);
    assert_eq!(w.parse.unwrap().unmatched_unmaps, 0);
}

#[test]
fn other_printers_give_the_same_requests() {
    let shipped = &shipped::ALL[6];
    let text = shipped.text();
    let whole = read(&text);
    let events = || text.lines().filter(|l| !l.starts_with('#'));
    // trace-cmd report: its own head, no flags, wider event names.
    let trace_cmd: String = std::iter::once("cpus=1\n".to_owned())
        .chain(events().map(|l| {
            let line = l.replace(" ..... ", " ").replace(" .N... ", " ");
            line.replacen(": dma_", ":           dma_", 1) + "\r\n"
        }))
        .collect();
    // perf script: no dash before the process, the subsystem before the event.
    let perf: String = events()
        .map(|l| {
            let line = l.replacen(": map:", ": iommu:map:", 1);
            let line = line.replacen(": unmap:", ": iommu:unmap:", 1);
            line.replacen(": dma_", ": dma:dma_", 1) + "\n"
        })
        .collect();
    for other in [trace_cmd, perf] {
        let other = read(&other);
        assert_eq!(other.steps(), whole.steps());
        assert_eq!(other.sizes(), whole.sizes());
        assert_eq!(other.devices, whole.devices);
    }
}
