//! Requests from `iommu:` lines alone, for kernels without `dma:` events.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Rebuilt,
    pieces::{Mapped, PAGE, Pieces, push_run},
};
use crate::{
    trace::{event::Event, parse::Log},
    workload::{Builder, Direction, Segment},
};

/// How many `block_rq_issue` lines before and behind a request are looked at.
/// A driver that maps while others wait has a few in between.
const ISSUES_NEAR: usize = 8;

/// A request found.
struct Found {
    pieces: Vec<Segment>,
    /// Bytes of its pages.
    span: u64,
    cpu: u32,
    /// Place of its last `map` line.
    mapped_at: usize,
    /// Place of its `unmap` line, if the trace has it.
    unmapped_at: Option<usize>,
}

pub(super) fn rebuild(log: &Log) -> Rebuilt {
    let mut pieces = Pieces::default();
    let mut found = Vec::new();
    let (mut unmatched, mut dropped) = (0, 0);
    for (at, logged) in log.events.iter().enumerate() {
        match logged.event {
            Event::Map { iova, phys, len } => {
                // Mapped again: the line that unmapped it was lost.
                for stale in pieces.over(iova, iova + len, logged.cpu) {
                    pieces.remove(&stale);
                    dropped += 1;
                }
                pieces.insert(Mapped {
                    iova,
                    phys,
                    len,
                    cpu: logged.cpu,
                    at,
                });
            }
            Event::Unmap { iova, len } => match gather(&pieces.drain(iova, iova + len), Some(at)) {
                Some(request) => found.push(request),
                None => unmatched += 1,
            },
            _ => {}
        }
    }
    // What was never unmapped: neighbours in address and in the trace are one.
    let mut group: Vec<Mapped> = Vec::new();
    for mapped in pieces.into_sorted() {
        let joins = group
            .last()
            .is_some_and(|l| l.iova + l.len == mapped.iova && l.cpu == mapped.cpu);
        if !joins {
            found.extend(gather(&std::mem::take(&mut group), None));
        }
        group.push(mapped);
    }
    found.extend(gather(&group, None));
    let issues = Issues::new(log);
    build(found, issues, unmatched, dropped)
}

/// One request of pieces in order of address.
fn gather(pieces: &[Mapped], unmapped_at: Option<usize>) -> Option<Found> {
    let last = pieces.iter().max_by_key(|m| m.at)?;
    let mut runs = Vec::new();
    for mapped in pieces {
        push_run(&mut runs, mapped.phys, mapped.len);
    }
    Some(Found {
        pieces: runs,
        span: pieces.iter().map(|m| m.len).sum(),
        cpu: last.cpu,
        mapped_at: last.at,
        unmapped_at,
    })
}

fn build(mut found: Vec<Found>, mut issues: Issues, unmatched: u64, dropped: u64) -> Rebuilt {
    found.sort_by_key(|f| f.mapped_at);
    let mut directions_unknown = 0;
    // Maps and unmaps in one order of places; an index into `found` each.
    let mut steps: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    for (i, request) in found.iter().enumerate() {
        steps.insert(request.mapped_at, (i, true));
        if let Some(at) = request.unmapped_at {
            steps.insert(at, (i, false));
        }
    }
    let mut requests = Builder::new();
    let mut numbers: HashMap<usize, u32> = HashMap::new();
    for (i, is_map) in steps.into_values() {
        if is_map {
            let request = &mut found[i];
            let direction = match issues.take(request.cpu, request.mapped_at, request.span) {
                Some((direction, bytes)) => {
                    trim(&mut request.pieces, bytes);
                    direction
                }
                None => {
                    directions_unknown += 1;
                    Direction::Bidirectional
                }
            };
            let pieces = std::mem::take(&mut request.pieces);
            numbers.insert(i, requests.map(0, direction, pieces));
        } else if let Some(&number) = numbers.get(&i) {
            requests.unmap(number);
        }
    }
    let mut remarks = vec!["rebuilt from iommu:map and iommu:unmap lines".to_owned()];
    if directions_unknown > 0 {
        remarks.push(format!(
            "{directions_unknown} requests of unknown direction, taken as bidirectional"
        ));
    }
    let left = requests.unmap_rest();
    Rebuilt {
        requests,
        unmatched_unmaps: unmatched,
        left_mapped: left + dropped,
        remarks,
    }
}

/// Cuts pieces down to `bytes`.
fn trim(pieces: &mut Vec<Segment>, bytes: u64) {
    let mut left = bytes;
    pieces.retain_mut(|piece| {
        piece.len_bytes = piece.len_bytes.min(left);
        left -= piece.len_bytes;
        piece.len_bytes > 0
    });
}

/// The block requests of each processor, by place.
struct Issues {
    by_cpu: HashMap<u32, Vec<(usize, Direction, u64)>>,
    used: HashSet<usize>,
}

impl Issues {
    fn new(log: &Log) -> Self {
        let mut by_cpu: HashMap<u32, Vec<_>> = HashMap::new();
        for (at, logged) in log.events.iter().enumerate() {
            if let Event::Issue { direction, bytes } = logged.event {
                let issues = by_cpu.entry(logged.cpu).or_default();
                issues.push((at, direction, bytes));
            }
        }
        Issues {
            by_cpu,
            used: HashSet::new(),
        }
    }

    /// The block request that a mapping of `span` bytes of pages belongs to:
    /// the nearest before it (SD: issued, then mapped), else behind it (NVMe:
    /// mapped, then issued), of a length that fills those pages.
    fn take(&mut self, cpu: u32, at: usize, span: u64) -> Option<(Direction, u64)> {
        let issues = self.by_cpu.get(&cpu)?;
        let next = issues.partition_point(|i| i.0 < at);
        let before = issues[..next].iter().rev().take(ISSUES_NEAR);
        let behind = issues[next..].iter().take(ISSUES_NEAR);
        let fits = |bytes: u64| bytes.div_ceil(PAGE).checked_mul(PAGE) == Some(span);
        let &(place, direction, bytes) =
            (before.chain(behind)).find(|i| fits(i.2) && !self.used.contains(&i.0))?;
        self.used.insert(place);
        Some((direction, bytes))
    }
}
