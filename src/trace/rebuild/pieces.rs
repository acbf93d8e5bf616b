//! What `iommu:map` lines said and no request has claimed yet, by address.

use std::collections::BTreeMap;

use dmabench_platform::PhysAddr;

use crate::workload::Segment;

/// Smallest page of the tables, in bytes.
pub(super) const PAGE: u64 = 4096;

/// One `iommu:map` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) iova: u64,
    pub(super) phys: u64,
    pub(super) len: u64,
    pub(super) cpu: u32,
    /// Place of the line in the trace.
    pub(super) at: usize,
}

/// By address, then by place: two devices may map the same address at once.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeMap<(u64, usize), Mapped>);

impl Pieces {
    pub(super) fn insert(&mut self, mapped: Mapped) {
        self.0.insert((mapped.iova, mapped.at), mapped);
    }

    /// The pieces that `start..end` touches, in order of address. Of several at
    /// one address (other devices, or lines whose request was lost) the one of
    /// the same processor, else the latest.
    pub(super) fn over(&self, start: u64, end: u64, cpu: u32) -> Vec<Mapped> {
        // A piece that begins before `start` may reach into the range.
        let before = self.0.range(..(start, 0)).next_back();
        let first = before
            .filter(|(_, m)| m.iova + m.len > start)
            .map_or(start, |((iova, _), _)| *iova);
        let mut found: Vec<Mapped> = Vec::new();
        for mapped in self.0.range((first, 0)..(end, 0)).map(|(_, m)| *m) {
            match found.last_mut() {
                Some(last) if last.iova == mapped.iova => {
                    if mapped.cpu == cpu || last.cpu != cpu {
                        *last = mapped;
                    }
                }
                _ => found.push(mapped),
            }
        }
        found
    }

    pub(super) fn remove(&mut self, mapped: &Mapped) {
        self.0.remove(&(mapped.iova, mapped.at));
    }

    /// Takes everything that begins in `start..end`.
    pub(super) fn drain(&mut self, start: u64, end: u64) -> Vec<Mapped> {
        let found: Vec<Mapped> = self
            .0
            .range((start, 0)..(end, 0))
            .map(|(_, m)| *m)
            .collect();
        for mapped in &found {
            self.remove(mapped);
        }
        found
    }

    pub(super) fn into_sorted(self) -> Vec<Mapped> {
        self.0.into_values().collect()
    }
}

/// The physical runs under `start..start + len`, or `None` where `pieces` (in
/// order of address) leave a gap.
pub(super) fn translate(pieces: &[Mapped], start: u64, len: u64, out: &mut Vec<Segment>) -> bool {
    let (mut at, end) = (start, start + len);
    for mapped in pieces {
        let mapped_end = mapped.iova + mapped.len;
        if mapped_end <= at || mapped.iova >= end {
            continue;
        }
        if mapped.iova > at {
            return false;
        }
        let until = mapped_end.min(end);
        push_run(out, mapped.phys + (at - mapped.iova), until - at);
        at = until;
    }
    at == end
}

/// A segment at the physical address `phys`.
pub(super) fn segment(phys: u64, len_bytes: u64) -> Segment {
    Segment {
        phys: PhysAddr(phys),
        len_bytes,
    }
}

/// Appends a run, joined to the last one where they touch.
pub(super) fn push_run(out: &mut Vec<Segment>, phys: u64, len: u64) {
    match out.last_mut() {
        Some(last) if last.phys.0 + last.len_bytes == phys => last.len_bytes += len,
        _ => out.push(segment(phys, len)),
    }
}

/// Cuts physical runs where the driver's list had entries: the kernel merges
/// neighbours before it prints `map` lines, and most lists have more entries
/// than runs. `starts` are the entries' addresses; from the first that is not
/// found on, the runs stay as they are.
pub(super) fn cut_at_entries(runs: &[Segment], starts: &[u64]) -> Vec<Segment> {
    let mut entries = Vec::with_capacity(starts.len().max(runs.len()));
    let mut starts = starts.iter().copied().peekable();
    for run in runs {
        let end = run.phys.0 + run.len_bytes;
        let mut at = run.phys.0;
        starts.next_if_eq(&at);
        while let Some(&start) = starts.peek() {
            // The start of an entry inside this run, behind the last.
            if start <= at || start >= end {
                break;
            }
            entries.push(segment(at, start - at));
            at = start;
            starts.next();
        }
        entries.push(segment(at, end - at));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(iova: u64, phys: u64, len: u64, at: usize) -> Mapped {
        Mapped {
            iova,
            phys,
            len,
            cpu: at as u32,
            at,
        }
    }

    #[test]
    fn a_gap_is_seen() {
        let pieces = [
            mapped(0x1000, 0x9000, 0x1000, 0),
            mapped(0x3000, 0, 0x1000, 1),
        ];
        let mut out = Vec::new();
        assert!(!translate(&pieces, 0x1000, 0x3000, &mut out));
        out.clear();
        assert!(translate(&pieces, 0x1400, 0x400, &mut out));
        assert_eq!(out, [segment(0x9400, 0x400)]);
    }

    #[test]
    fn two_devices_at_one_address_are_told_apart_by_processor() {
        let mut pieces = Pieces::default();
        pieces.insert(mapped(0x1000, 0x9000, 0x1000, 0));
        pieces.insert(mapped(0x1000, 0x5000, 0x1000, 1));
        assert_eq!(pieces.over(0x1000, 0x2000, 0)[0].phys, 0x9000);
        assert_eq!(pieces.over(0x1000, 0x2000, 1)[0].phys, 0x5000);
        assert_eq!(pieces.over(0x1800, 0x2000, 1).len(), 1);
        assert_eq!(pieces.drain(0x1000, 0x2000).len(), 2);
    }

    #[test]
    fn runs_are_cut_where_entries_began() {
        let runs = [segment(0x1000, 0x3000), segment(0x9000, 0x1000)];
        let entries = cut_at_entries(&runs, &[0x1000, 0x2000, 0x9000]);
        assert_eq!(
            entries,
            [
                segment(0x1000, 0x1000),
                segment(0x2000, 0x2000),
                segment(0x9000, 0x1000)
            ]
        );
        // Entries that do not fit change nothing.
        assert_eq!(cut_at_entries(&runs, &[0x7000, 0x2000]), runs);
        assert_eq!(cut_at_entries(&runs, &[]), runs);
    }
}
