//! The traces that ship with the tool, inside the program, so that it runs
//! wherever it is installed. Where they come from: `traces/README.md`.

use std::path::Path;

use super::{Options, TraceError, read_bytes};
use crate::workload::Workload;

/// What `traces/README.md` says at length.
const PROVENANCE: &str = "arm64 Linux 6.12.95 (Debian) under QEMU 7.2 with an emulated SMMUv3: \
    order and sizes are exact, time stamps are not";

/// A trace inside the program.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// Name of its workload.
    pub name: &'static str,
    /// What was recorded, in one sentence.
    pub description: &'static str,
    gzip: &'static [u8],
}

macro_rules! shipped {
    ($($name:literal: $description:literal,)*) => {
        /// Every shipped trace.
        pub const ALL: &[Shipped] = &[$(Shipped {
            name: $name,
            description: $description,
            gzip: include_bytes!(concat!("../../traces/", $name, ".txt.gz")),
        }),*];
    };
}

shipped! {
    "sd-strict-seqread_4k_buffered":
        "SD card, strict: sequential read of 4 KiB blocks through the page cache, which reads ahead 128 KiB",
    "sd-strict-seqread_64k_direct":
        "SD card, strict: sequential direct reads of 64 KiB",
    "sd-strict-seqread_1m_buffered":
        "SD card, strict: sequential read of 1 MiB blocks through the page cache, 512 KiB requests of up to 128 entries",
    "sd-strict-randread_4k_direct":
        "SD card, strict: random direct reads of 4 KiB",
    "sd-strict-randwrite_4k_direct":
        "SD card, strict: random direct writes of 4 KiB",
    "sd-strict-seqwrite_64k_direct":
        "SD card, strict: sequential direct writes of 64 KiB",
    "sd-strict-ext4_write_fsync":
        "SD card, strict: ext4, files written and fsynced",
    "sd-lazy-seqread_4k_buffered":
        "SD card, lazy: sequential read of 4 KiB blocks through the page cache, which reads ahead 128 KiB",
    "sd-passthrough-randread_4k_direct":
        "SD card, no translation: random direct reads of 4 KiB",
    "nvme-lazy-seqread128k_4procs":
        "NVMe drive, lazy, two processors: four processes read sequentially, 128 KiB requests",
}

impl Shipped {
    /// The trace as text.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut decoder = flate2::read::GzDecoder::new(self.gzip);
        std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
        text
    }

    /// Reads the trace.
    ///
    /// # Errors
    ///
    /// None in a whole program: the tests read every trace.
    pub fn workload(&self, options: Options) -> Result<Workload, TraceError> {
        let path = format!("traces/{}.txt.gz", self.name);
        let mut workload = read_bytes(self.gzip, Path::new(&path), PROVENANCE, options)?;
        workload.description = self.description.to_owned();
        Ok(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Direction, Step};

    fn workload(name: &str) -> Workload {
        let shipped = ALL.iter().find(|s| s.name == name).unwrap();
        shipped.workload(Options { strict: true }).unwrap()
    }

    /// Requests (map lines), bytes (sum of the block_rq_issue lines), most live
    /// at once: counted in the texts with awk, not with this parser.
    #[test]
    fn every_shipped_trace_gives_its_requests() {
        let expected = [
            ("sd-strict-seqread_4k_buffered", 132, 17_022_976, 1),
            ("sd-strict-seqread_64k_direct", 256, 16 << 20, 1),
            ("sd-strict-seqread_1m_buffered", 33, 17_301_504, 1),
            ("sd-strict-randread_4k_direct", 512, 2 << 20, 1),
            ("sd-strict-randwrite_4k_direct", 512, 2 << 20, 1),
            ("sd-strict-seqwrite_64k_direct", 128, 8 << 20, 1),
            ("sd-strict-ext4_write_fsync", 248, 11_117_568, 2),
            ("sd-lazy-seqread_4k_buffered", 132, 17_022_976, 1),
            ("sd-passthrough-randread_4k_direct", 512, 2 << 20, 1),
            ("nvme-lazy-seqread128k_4procs", 128, 16 << 20, 4),
        ];
        assert_eq!(ALL.len(), expected.len());
        for (name, requests, bytes, live) in expected {
            let w = workload(name);
            let parse = w.parse.clone().unwrap();
            assert_eq!(w.requests().len(), requests, "{name}");
            assert_eq!(w.live_max, live, "{name}");
            assert_eq!(w.bytes(), bytes, "{name}");
            assert_eq!(w.steps().len(), 2 * requests, "{name}");
            assert_eq!(
                (
                    parse.damaged_lines,
                    parse.unmatched_unmaps,
                    parse.left_mapped
                ),
                (0, 0, 0),
                "{name}"
            );
            assert_eq!((parse.unknown_lines, parse.lost_events), (0, 0), "{name}");
        }
    }

    #[test]
    fn the_ext4_trace_has_the_sizes_its_readme_states() {
        let w = workload("sd-strict-ext4_write_fsync");
        let by_pages = |pages: u64| -> u64 {
            (w.sizes().iter())
                .filter(|s| s.bytes.div_ceil(4096) == pages)
                .map(|s| s.requests)
                .sum()
        };
        let counts = [1, 2, 6, 7, 128].map(by_pages);
        assert_eq!(counts, [157, 2, 5, 68, 16]);
        // The first request is 1 KiB inside a page.
        let first = &w.requests()[0];
        assert_eq!(w.segments(first)[0].phys.0, 0x422c_0400);
        assert_eq!(first.bytes, 1024);
        assert_eq!(first.direction, Direction::FromDevice);
    }

    #[test]
    fn entries_are_those_of_the_driver_not_of_the_page_table() {
        // 127 entries in the first list of 512 KiB, 128 in the others.
        let w = workload("sd-strict-seqread_1m_buffered");
        let entries: Vec<usize> = w.requests().iter().map(|r| w.segments(r).len()).collect();
        assert_eq!(entries[..3], [127, 128, 128]);
        let w = workload("sd-strict-seqread_64k_direct");
        assert!(w.requests().iter().all(|r| w.segments(r).len() == 3));
    }

    #[test]
    fn an_unmap_follows_its_own_map() {
        let w = workload("nvme-lazy-seqread128k_4procs");
        let mut mapped = vec![false; w.requests().len()];
        for step in w.steps() {
            match *step {
                Step::Map(r) => mapped[r as usize] = true,
                Step::Unmap(r) => assert!(std::mem::take(&mut mapped[r as usize])),
            }
        }
        assert!(mapped.iter().all(|m| !m));
    }
}
