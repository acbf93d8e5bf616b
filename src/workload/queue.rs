//! A host and its device, where a workload says what is asked for and when, but
//! not when it is done.

use std::{collections::VecDeque, sync::LazyLock};

use super::Builder;
use crate::model::StorageDevice;

static DEVICE: LazyLock<StorageDevice> = LazyLock::new(StorageDevice::emmc_2021);

/// The eMMC of the exposure runs behind a host that has up to `depth` requests
/// mapped. It serves them one after the other; who finds the host full waits.
#[derive(Debug)]
pub(crate) struct Queue {
    depth: usize,
    /// Request and the time it is done, oldest first.
    flying: VecDeque<(u32, u64)>,
    /// When the device has nothing more to do.
    free_ns: u64,
}

impl Queue {
    /// At least one request fits in.
    pub(crate) fn new(depth: usize) -> Self {
        Queue {
            depth: depth.max(1),
            flying: VecDeque::new(),
            free_ns: 0,
        }
    }

    /// Unmaps what is done at `now`.
    fn complete(&mut self, builder: &mut Builder, now: u64) {
        while let Some(&(request, done)) = self.flying.front()
            && done <= now
        {
            builder.unmap(request);
            self.flying.pop_front();
        }
    }

    /// When a request that arrives at `now` is taken. What is done by then is
    /// unmapped; if that is all, the time since then was idle.
    pub(crate) fn take(&mut self, builder: &mut Builder, now: u64) -> u64 {
        self.complete(builder, now);
        match self.flying.front() {
            Some(&(_, done)) if self.flying.len() >= self.depth => {
                self.complete(builder, done);
                done
            }
            Some(_) => now,
            None => {
                let us = now.saturating_sub(self.free_ns) / 1000;
                builder.idle(u32::try_from(us).unwrap_or(u32::MAX));
                now
            }
        }
    }

    /// The request that was taken at `now` goes to the device.
    pub(crate) fn issue(&mut self, request: u32, now: u64, bytes: u64) {
        let service = DEVICE.service_ns(bytes);
        self.free_ns = self.free_ns.max(now).saturating_add(service);
        self.flying.push_back((request, self.free_ns));
    }

    /// Unmaps everything, and says when it was done.
    pub(crate) fn finish(&mut self, builder: &mut Builder) -> u64 {
        self.complete(builder, u64::MAX);
        self.free_ns
    }
}
