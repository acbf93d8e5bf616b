//! The free-space index.

use alloc::collections::BTreeMap;

use crate::config::Policy;

/// Free runs by first page: `first -> last`, inclusive.
#[derive(Debug)]
pub(crate) struct Index {
    runs: BTreeMap<u64, u64>,
    free_pages: u64,
}

/// Where a range may lie. Pages are absolute: address / granule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) size: u64,
    pub(crate) align_lg2: u32,
    /// The last page that may be used.
    pub(crate) last: u64,
    pub(crate) policy: Policy,
}

impl Index {
    pub(crate) fn new(first: u64, last: u64) -> Self {
        Index {
            runs: BTreeMap::from([(first, last)]),
            free_pages: last - first + 1,
        }
    }

    pub(crate) fn alloc(&mut self, place: Place) -> Option<u64> {
        let mask = 1u64.checked_shl(place.align_lg2)? - 1;
        let fit = |(&first, &last): (&u64, &u64)| {
            let last = last.min(place.last);
            if place.policy == Policy::HighestFirst {
                let start = last.checked_add(1)?.checked_sub(place.size)? & !mask;
                (start >= first).then_some((start, last - first))
            } else {
                let start = first.checked_add(mask)? & !mask;
                let end = start.checked_add(place.size - 1)?;
                (end <= last).then_some((start, last - first))
            }
        };
        let runs = self.runs.range(..=place.last);
        let start = match place.policy {
            Policy::HighestFirst => runs.rev().find_map(fit)?.0,
            Policy::LowestFirst => runs.into_iter().find_map(fit)?.0,
            Policy::BestFit => runs.filter_map(fit).min_by_key(|fit| fit.1)?.0,
        };
        self.take(start, start + (place.size - 1));
        Some(start)
    }

    /// Takes `first..=last` out of the free pages, if all of it is free.
    pub(crate) fn take(&mut self, first: u64, last: u64) -> bool {
        let Some((&run_first, &run_last)) = self.runs.range(..=first).next_back() else {
            return false;
        };
        if run_last < last {
            return false;
        }
        self.runs.remove(&run_first);
        if run_first < first {
            self.runs.insert(run_first, first - 1);
        }
        if last < run_last {
            self.runs.insert(last + 1, run_last);
        }
        self.free_pages -= last - first + 1;
        true
    }

    pub(crate) fn free(&mut self, first: u64, size: u64) {
        let mut start = first;
        let mut last = first + (size - 1);
        if let Some((&before, &end)) = self.runs.range(..first).next_back()
            && end + 1 == first
        {
            self.runs.remove(&before);
            start = before;
        }
        if let Some(&end) = self.runs.get(&(last + 1)) {
            self.runs.remove(&(last + 1));
            last = end;
        }
        self.runs.insert(start, last);
        self.free_pages += size;
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.free_pages
    }

    pub(crate) fn largest_free_run(&self) -> u64 {
        self.runs
            .iter()
            .map(|(first, last)| last - first + 1)
            .max()
            .unwrap_or(0)
    }
}
