//! Any bytes give a workload or an error. A workload maps and unmaps each
//! request once and never keeps more mapped than it says.
#![no_main]

use std::path::Path;

use dmabench::{
    trace::{Options, read_bytes},
    workload::Step,
};
use libfuzzer_sys::fuzz_target;

/// Fields that are right but for their numbers (@ I/O virtual address, # physical
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
            made = lines(rest);
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
