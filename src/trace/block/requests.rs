//! Block requests to mapped requests, as they are read.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{super::event::Devices, memory::Memory};
use crate::{
    trace::Reason,
    workload::{Builder, Direction, Queue},
};

/// Requests whose completion may still come. More were lost: no host has so
/// many, and the addresses for them would run out.
const LIVE_MAX: usize = 1 << 14;

/// Requests that an SD host without a command queue has mapped: `pre_req` maps
/// one while the other is transferred.
const HOST_DEPTH: usize = 2;

/// One sector of the block layer, whatever the device's are.
pub(super) const SECTOR: u64 = 512;

/// A range of a device's sectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) device: u16,
    pub(super) sector: u64,
    pub(super) sectors: u64,
}

/// An issued request that has not completed: those it was split into.
#[derive(Debug, Clone, Copy)]
struct Live {
    first: u32,
    last: u32,
    sectors: u64,
}

/// The mapped requests of a block trace.
#[derive(Debug)]
pub(super) struct Requests {
    builder: Builder,
    memory: Memory,
    devices: Devices,
    /// By device and first sector, oldest first.
    live: HashMap<(u16, u64), VecDeque<Live>>,
    /// The key of each live request, by its number.
    by_age: BTreeMap<u32, (u16, u64)>,
    /// When something last happened.
    now_ns: u64,
    completed: u64,
    unmatched: u64,
    lost: u64,
    queue: Queue,
}

/// What was made of a trace.
pub(super) struct Made {
    pub(super) builder: Builder,
    pub(super) devices: Vec<String>,
    pub(super) unmatched: u64,
    pub(super) left_mapped: u64,
}

impl Requests {
    pub(super) fn new() -> Self {
        let mut builder = Builder::new();
        let memory = Memory::new(&mut builder);
        Requests {
            builder,
            memory,
            devices: Devices::default(),
            live: HashMap::new(),
            by_age: BTreeMap::new(),
            now_ns: 0,
            completed: 0,
            unmatched: 0,
            lost: 0,
            queue: Queue::new(HOST_DEPTH),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// Requests that completed.
    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    pub(super) fn device(&mut self, name: &str) -> Result<u16, Reason> {
        self.devices.index_of(name)
    }

    /// The driver got a request; it completes when [`done`](Self::done) says so.
    pub(super) fn issue(&mut self, extent: Extent, direction: Direction, at_ns: u64) {
        // Time passes on an idle device only where nothing is mapped.
        if self.by_age.is_empty() && self.now_ns > 0 {
            let idle = at_ns.saturating_sub(self.now_ns) / 1000;
            self.builder.idle(u32::try_from(idle).unwrap_or(u32::MAX));
        }
        self.now_ns = self.now_ns.max(at_ns);
        if self.by_age.len() >= LIVE_MAX
            && let Some((&oldest, &key)) = self.by_age.first_key_value()
        {
            self.lost += 1;
            self.end(key, oldest);
        }
        let mut numbers: Option<(u32, u32)> = None;
        let bytes = extent.sectors * SECTOR;
        (self.memory).requests(&mut self.builder, bytes, |builder, list| {
            let number = builder.map_list(extent.device, direction, list);
            numbers = Some((numbers.map_or(number, |(first, _)| first), number));
        });
        let Some((first, last)) = numbers else {
            return;
        };
        let key = (extent.device, extent.sector);
        self.by_age.insert(first, key);
        (self.live.entry(key).or_default()).push_back(Live {
            first,
            last,
            sectors: extent.sectors,
        });
    }

    /// A request completed, or a first part of it; or went back to the queue.
    pub(super) fn done(&mut self, extent: Extent, at_ns: u64) {
        self.now_ns = self.now_ns.max(at_ns);
        let key = (extent.device, extent.sector);
        let Some(live) = self.live.get(&key).and_then(VecDeque::front).copied() else {
            self.unmatched += 1;
            return;
        };
        if extent.sectors > 0 && extent.sectors < live.sectors {
            // The rest completes under the sector it begins at.
            self.take(key, live.first);
            let rest = (extent.device, extent.sector + extent.sectors);
            self.by_age.insert(live.first, rest);
            (self.live.entry(rest).or_default()).push_back(Live {
                sectors: live.sectors - extent.sectors,
                ..live
            });
            return;
        }
        self.completed += 1;
        self.end(key, live.first);
    }

    /// Takes the live request of that number from those of `key`.
    fn take(&mut self, key: (u16, u64), first: u32) -> Option<Live> {
        self.by_age.remove(&first);
        let queue = self.live.get_mut(&key)?;
        let at = queue.iter().position(|live| live.first == first)?;
        let live = queue.remove(at);
        if queue.is_empty() {
            self.live.remove(&key);
        }
        live
    }

    fn end(&mut self, key: (u16, u64), first: u32) {
        if let Some(live) = self.take(key, first) {
            for request in live.first..=live.last {
                self.builder.unmap(request);
            }
        }
    }

    /// A read or write that arrives at `at_ns`; a host and a device that are
    /// assumed say when it completes.
    pub(super) fn arrive(&mut self, device: u16, direction: Direction, bytes: u64, at_ns: u64) {
        let (queue, now) = (&mut self.queue, &mut self.now_ns);
        *now = (*now).max(at_ns);
        (self.memory).requests(&mut self.builder, bytes, |builder, list| {
            *now = queue.take(builder, *now);
            let request = builder.map_list(device, direction, list);
            let bytes = builder.bytes(request);
            queue.issue(request, *now, bytes);
        });
    }

    /// Whoever asks waits for everything before it goes on.
    pub(super) fn wait_for_all(&mut self) {
        let now = self.queue.finish(&mut self.builder);
        self.now_ns = self.now_ns.max(now);
    }

    /// Nothing is asked for so long after everything before is done.
    pub(super) fn wait(&mut self, ns: u64) {
        self.wait_for_all();
        self.now_ns = self.now_ns.saturating_add(ns);
    }

    /// The time at which the next one can arrive.
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn finish(mut self) -> Made {
        let left = self.by_age.len() as u64;
        self.queue.finish(&mut self.builder);
        Made {
            builder: self.builder,
            devices: self.devices.0,
            unmatched: self.unmatched,
            left_mapped: left + self.lost,
        }
    }
}
