//! Any bytes give a workload or an error. A workload maps and unmaps each
//! request once and never keeps more mapped than it says.
#![no_main]

use std::path::Path;

use dmabench::{
    trace::{Options, read_bytes},
    workload::Step,
};
use libfuzzer_sys::fuzz_target;

/// Fields of an ftrace that are right but for their numbers (@ I/O virtual address, # physical
/// address, % size): bytes alone take hours to find
/// the first event.
const EVENTS: [&str; 8] = [
    "map: IOMMU: iova=@ paddr=# size=%",
    "unmap: IOMMU: iova=@ size=% unmapped_size=%",
    "dma_map_page: d dir=TO_DEVICE dma_addr=@ size=% phys_addr=# attrs=",
    "dma_unmap_page: d dir=TO_DEVICE dma_addr=@ size=% attrs=",
    "dma_map_sg: e dir=FROM_DEVICE dma_addrs={@} sizes={%} phys_addrs={#,@} attrs=",
    "dma_map_sg: d dir=TO_DEVICE [TRUNCATED] dma_addrs={@} sizes={%} phys_addrs={#} attrs=",
    "dma_unmap_sg: e dir=FROM_DEVICE phys_addrs={#,@} attrs=",
    "block_rq_issue: 1,0 W % () 8 + 8",
];

/// Lines of `blkparse`: action, RWBS, sector and sectors from four bytes.
fn blkparse(data: &[u8]) -> Vec<u8> {
    const ACTIONS: [&str; 6] = ["D", "D", "C", "C", "R", "Q"];
    const RWBS: [&str; 6] = ["R", "W", "FWFS", "D", "FN", "RA"];
    let mut text = String::new();
    for (number, quad) in data.chunks_exact(4).enumerate() {
        let action = ACTIONS[usize::from(quad[0] % 6)];
        let rwbs = RWBS[usize::from(quad[1] % 6)];
        let (device, sector) = (quad[1] >> 7, u64::from(quad[2]) * 8);
        let sectors = u64::from(quad[3]) * u64::from(quad[3]);
        text +=
            &format!("8,{device} 0 1 0.{number:09} 1 {action} {rwbs} {sector} + {sectors} [x]\n");
    }
    text.into_bytes()
}

/// An iolog of either version: action, time, offset and length from four bytes.
fn iolog(data: &[u8]) -> Vec<u8> {
    const ACTIONS: [&str; 6] = ["read", "write", "wait", "sync", "trim", "close"];
    let version = 2 + data.first().map_or(0, |b| b % 2);
    let mut text = format!("fio version {version} iolog\n");
    for quad in data.chunks_exact(4) {
        let action = ACTIONS[usize::from(quad[0] % 6)];
        let (offset, length) = (u64::from(quad[2]) * 512, u64::from(quad[3]).pow(2) * 100);
        if version == 3 {
            text += &format!("{} ", u64::from(quad[1]) * 10);
        }
        text += &format!("f {action} {offset} {length}\n");
    }
    text.into_bytes()
}

/// A trace of well-formed lines: four bytes each.
fn lines(data: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    for quad in data.chunks_exact(4) {
        let hex = |byte: u8| format!("0x{:x}000", byte % 32);
        let size = u64::from(quad[3] % 8) * 2048;
        let event = EVENTS[usize::from(quad[0] % 8)];
        let size = if event.contains("{%}") {
            format!("{size:#x}")
        } else {
            size.to_string()
        };
        let event = event
            .replace('@', &hex(quad[1]))
            .replace('#', &hex(quad[2]))
            .replace('%', &size);
        text += &format!("t-1 [00{}] 1.5: {event}\n", quad[0] >> 6);
    }
    text.into_bytes()
}

fuzz_target!(|data: &[u8]| {
    let made;
    let data = match data {
        [first, rest @ ..] if first % 2 == 1 => {
            made = match first >> 1 & 7 {
                0 | 1 => blkparse(rest),
                2 | 3 => iolog(rest),
                // The first bytes of Zstandard data, and a first line.
                4 => [&[0x28, 0xb5, 0x2f, 0xfd][..], rest].concat(),
                5 => [&b"fio version 3 iolog\n"[..], rest].concat(),
                _ => lines(rest),
            };
            &made[..]
        }
        _ => data,
    };
    let Ok(workload) = read_bytes(data, Path::new("fuzz"), "", Options::default()) else {
        return;
    };
    let mut mapped = vec![false; workload.requests().len()];
    let mut places = vec![false; workload.live_max as usize];
    for step in workload.steps() {
        match *step {
            Step::Map(request) => {
                assert!(!std::mem::replace(&mut mapped[request as usize], true));
                let place = workload.requests()[request as usize].place as usize;
                assert!(!std::mem::replace(&mut places[place], true));
            }
            Step::Unmap(request) => {
                let place = workload.requests()[request as usize].place as usize;
                assert!(std::mem::replace(&mut places[place], false));
            }
        }
    }
    assert!(mapped.iter().all(|m| *m) && places.iter().all(|p| !p));
    for request in workload.requests() {
        assert!(usize::from(request.device) < workload.devices.len());
        let segments = workload.segments(request);
        assert!(!segments.is_empty() && segments.iter().all(|s| s.len_bytes > 0));
        assert_eq!(
            request.bytes,
            segments.iter().map(|s| s.len_bytes).sum::<u64>()
        );
        assert!(segments.iter().all(|s| s.phys.0 + s.len_bytes <= 1 << 48));
    }
});
