//! Requests from `dma:` lines, with the help of `iommu:` lines where there are
//! any.

use std::collections::{BTreeMap, HashMap};

use super::{
    Rebuilt,
    pieces::{Mapped, PAGE, Pieces, cut_at_entries, segment, translate},
};
use crate::{
    trace::{
        event::{DeviceIndex, Event, List},
        parse::Log,
    },
    workload::{Builder, Direction, Segment},
};

/// How far to look for the line that names the device of an `iommu:unmap`.
const NEIGHBOURS: usize = 64;

/// A request that is mapped.
#[derive(Debug, Clone, Copy)]
struct Live {
    request: u32,
    device: DeviceIndex,
    /// Where its range of I/O virtual addresses ends.
    end: u64,
    /// The `dma:` unmap line ends it, because there is no `iommu:unmap`.
    ends_by_dma_line: bool,
    /// Passthrough: the same memory may be mapped twice at once.
    identity: bool,
    /// The entries' physical addresses: all that `dma_unmap_sg` prints.
    phys: List,
}

/// By address; the request's number tells two devices at one address apart.
type LiveKey = (u64, u32);

struct State<'a> {
    log: &'a Log,
    has_maps: bool,
    has_unmaps: bool,
    pieces: Pieces,
    live: BTreeMap<LiveKey, Live>,
    /// The live scatter lists that a `dma_unmap_sg` ends, by their first page.
    by_phys: HashMap<(DeviceIndex, u64), Vec<LiveKey>>,
    requests: Builder,
    unmatched: u64,
    reused: u64,
    guessed: u64,
}

pub(super) fn rebuild(log: &Log) -> Rebuilt {
    let has = |wanted: fn(&Event) -> bool| log.events.iter().any(|l| wanted(&l.event));
    let mut state = State {
        log,
        has_maps: has(|e| matches!(e, Event::Map { .. })),
        has_unmaps: has(|e| matches!(e, Event::Unmap { .. })),
        pieces: Pieces::default(),
        live: BTreeMap::new(),
        by_phys: HashMap::new(),
        requests: Builder::new(),
        unmatched: 0,
        reused: 0,
        guessed: 0,
    };
    for at in 0..log.events.len() {
        state.step(at);
    }
    let left = state.requests.unmap_rest();
    let mut remarks = Vec::new();
    if state.guessed > 0 {
        remarks.push(format!(
            "{} scatter lists without iommu:map lines, the lengths of their entries are guessed",
            state.guessed
        ));
    }
    Rebuilt {
        requests: state.requests,
        unmatched_unmaps: state.unmatched,
        left_mapped: left + state.reused,
        remarks,
    }
}

impl State<'_> {
    fn step(&mut self, at: usize) {
        let logged = self.log.events[at];
        let cpu = logged.cpu;
        match logged.event {
            Event::Map { iova, phys, len } => self.pieces.insert(Mapped {
                iova,
                phys,
                len,
                cpu,
                at,
            }),
            Event::MapSg {
                device,
                direction,
                truncated,
                dma,
                sizes,
                phys,
            } => {
                let dma = self.log.lists.get(dma);
                let outputs: Vec<(u64, u64)> = (dma.iter().copied())
                    .zip(self.log.lists.get(sizes).iter().copied())
                    .collect();
                let list = self.scatter_list(&outputs, phys, truncated, cpu);
                self.map(device, direction, &outputs, phys, list);
            }
            Event::MapOne {
                device,
                direction,
                dma,
                phys,
                len,
            } => {
                let claimed = self.claim(&[(dma, len)], cpu);
                let translated = claimed.is_some();
                let pieces = claimed.unwrap_or_else(|| vec![segment(phys, len)]);
                let identity = dma == phys;
                let list = ScatterList {
                    pieces,
                    translated,
                    identity,
                    end: dma + len,
                };
                self.map(device, direction, &[(dma, len)], List::default(), list);
            }
            Event::Unmap { iova, len } => self.unmap_range(iova, iova + len, at),
            Event::UnmapSg { device, phys } => self.unmap_sg(device, phys),
            Event::UnmapOne { device, dma } => self.unmap_one(device, dma),
            Event::Issue { .. } => {}
        }
    }

    /// The physical pieces under `outputs`, taken out of the table; `None` if
    /// the table does not cover them.
    fn claim(&mut self, outputs: &[(u64, u64)], cpu: u32) -> Option<Vec<Segment>> {
        let mut runs = Vec::new();
        let mut used = Vec::new();
        for &(dma, len) in outputs {
            let over = self.pieces.over(dma, dma + len, cpu);
            if !translate(&over, dma, len, &mut runs) {
                return None;
            }
            used.extend(over);
        }
        for mapped in &used {
            self.pieces.remove(mapped);
        }
        Some(runs)
    }

    fn scatter_list(
        &mut self,
        outputs: &[(u64, u64)],
        phys: List,
        truncated: bool,
        cpu: u32,
    ) -> ScatterList {
        let starts = self.log.lists.get(phys);
        let &(last, last_len) = outputs.last().expect("the parser refuses empty lists");
        let identity = outputs[0].0 == starts[0];
        let end = last + last_len;
        let Some(mut runs) = self.claim(outputs, cpu) else {
            if starts.len() != outputs.len() {
                self.guessed += 1;
            }
            return ScatterList {
                pieces: unmapped_list(outputs, starts),
                translated: false,
                identity,
                end,
            };
        };
        let mut end = end;
        // Behind the last page of all there is nothing.
        if truncated && let Some(page_end) = end.checked_next_multiple_of(PAGE) {
            // What the line does not show any more lies behind, up to a gap.
            end = page_end;
            while let [next, ..] = self.pieces.over(end, end.saturating_add(1), cpu)[..] {
                if next.iova != end || next.cpu != cpu {
                    break;
                }
                super::pieces::push_run(&mut runs, next.phys, next.len);
                self.pieces.remove(&next);
                end += next.len;
            }
        }
        ScatterList {
            pieces: cut_at_entries(&runs, starts),
            translated: true,
            identity: false,
            end,
        }
    }

    fn map(
        &mut self,
        device: DeviceIndex,
        direction: Direction,
        outputs: &[(u64, u64)],
        phys: List,
        list: ScatterList,
    ) {
        let start = outputs[0].0;
        if !list.identity {
            self.drop_overlapping(device, start, list.end);
        }
        let request = self.requests.map(device, direction, list.pieces);
        let key = (start, request);
        let ends_by_dma_line = !list.translated || !self.has_unmaps;
        if ends_by_dma_line && let Some(&first) = self.log.lists.get(phys).first() {
            self.by_phys.entry((device, first)).or_default().push(key);
        }
        self.live.insert(
            key,
            Live {
                request,
                device,
                end: list.end,
                ends_by_dma_line,
                identity: list.identity,
                phys,
            },
        );
    }

    /// An address that is mapped again was unmapped before, in a line that was
    /// lost.
    fn drop_overlapping(&mut self, device: DeviceIndex, start: u64, end: u64) {
        let stale: Vec<LiveKey> = (self.live.range(..(end, 0)).rev())
            // Ranges of one device do not overlap, so only the nearest can
            // reach in; a few more, because other devices stand between.
            .take(4 * crate::trace::Reason::MAX_DEVICES)
            .filter(|(_, l)| l.device == device && !l.identity && l.end > start)
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            self.reused += 1;
            self.end(key);
        }
    }

    fn end(&mut self, key: LiveKey) {
        let Some(live) = self.live.remove(&key) else {
            return;
        };
        self.requests.unmap(live.request);
        let first = self.log.lists.get(live.phys).first();
        if live.ends_by_dma_line
            && let Some(&first) = first
            && let Some(keys) = self.by_phys.get_mut(&(live.device, first))
        {
            keys.retain(|k| *k != key);
        }
    }

    fn unmap_range(&mut self, start: u64, end: u64, at: usize) {
        let found: Vec<(LiveKey, DeviceIndex)> = (self.live.range((start, 0)..(end, 0)))
            .filter(|(_, l)| !l.identity)
            .map(|(key, l)| (*key, l.device))
            .collect();
        let Some(&(_, first_device)) = found.first() else {
            // Memory mapped without a `dma:` map line (dma_alloc) has left
            // pieces; without those, nobody saw it mapped. (Without any `map`
            // line in the trace a `dma:` line has ended it already.)
            if self.pieces.drain(start, end).is_empty() && self.has_maps {
                self.unmatched += 1;
            }
            return;
        };
        let device = if found.iter().all(|(_, d)| *d == first_device) {
            first_device
        } else {
            self.device_of_unmap(at, start..end).unwrap_or(first_device)
        };
        for (key, _) in found.iter().filter(|(_, d)| *d == device) {
            self.end(*key);
        }
    }

    /// `iommu:unmap` names no device. `dma_unmap_sg` stands before it on the
    /// same processor, `dma_unmap_page` behind it.
    fn device_of_unmap(&self, at: usize, range: std::ops::Range<u64>) -> Option<DeviceIndex> {
        let events = &self.log.events;
        let cpu = events[at].cpu;
        let near = |l: &&crate::trace::parse::Logged| l.cpu == cpu;
        let before = (events[..at].iter().rev()).take(NEIGHBOURS).find(near);
        if let Some(Event::UnmapSg { device, .. }) = before.map(|l| l.event) {
            return Some(device);
        }
        let behind = (events[at + 1..].iter()).take(NEIGHBOURS).find(near);
        match behind.map(|l| l.event) {
            Some(Event::UnmapOne { device, dma }) if range.contains(&dma) => Some(device),
            _ => None,
        }
    }

    fn unmap_sg(&mut self, device: DeviceIndex, phys: List) {
        let lists = &self.log.lists;
        let wanted = lists.get(phys);
        let key = wanted.first().and_then(|&first| {
            let keys = self.by_phys.get(&(device, first))?;
            // The oldest of several equal ones.
            (keys.iter().copied())
                .find(|key| (self.live.get(key)).is_some_and(|l| lists.get(l.phys) == wanted))
        });
        match key {
            Some(key) => self.end(key),
            None if !self.has_unmaps => self.unmatched += 1,
            // Its `iommu:unmap` line ends it.
            None => {}
        }
    }

    fn unmap_one(&mut self, device: DeviceIndex, dma: u64) {
        let key = (self.live.range((dma, 0)..=(dma, u32::MAX)))
            .find(|(_, l)| l.device == device && l.ends_by_dma_line && l.phys.len == 0)
            .map(|(key, _)| *key);
        match key {
            Some(key) => self.end(key),
            None if !self.has_unmaps => self.unmatched += 1,
            None => {}
        }
    }
}

/// A request as it was mapped.
struct ScatterList {
    pieces: Vec<Segment>,
    /// `iommu:map` lines stood behind it.
    translated: bool,
    /// The device uses physical addresses.
    identity: bool,
    end: u64,
}

/// The entries of a list without `iommu:map` lines. The sizes belong to the
/// outputs; with one output per entry (passthrough) they are the entries' too.
/// Otherwise each entry is taken to end with its page and the last to hold the
/// rest.
fn unmapped_list(outputs: &[(u64, u64)], starts: &[u64]) -> Vec<Segment> {
    if starts.len() == outputs.len() {
        let sizes = outputs.iter().map(|o| o.1);
        return (starts.iter().zip(sizes))
            .map(|(&phys, len_bytes)| segment(phys, len_bytes))
            .collect();
    }
    let mut left: u64 = outputs.iter().map(|o| o.1).sum();
    let mut pieces = Vec::with_capacity(starts.len());
    for (i, &phys) in starts.iter().enumerate() {
        let to_page_end = PAGE - phys % PAGE;
        let len_bytes = if i + 1 == starts.len() {
            left
        } else {
            to_page_end.min(left)
        };
        pieces.push(segment(phys, len_bytes));
        left -= len_bytes;
    }
    pieces
}
