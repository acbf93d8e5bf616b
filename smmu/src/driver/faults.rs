//! Events and global errors.

use alloc::{collections::BTreeMap, vec::Vec};

use dmabench_pgtable::TableMemory;

use super::Smmu;
use crate::{
    SmmuHost,
    format::{Command, Event, Resume, registers as r},
    queue::{EventBatch, EventQueueError},
};

/// Faults of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFaults {
    /// Events reported for it.
    pub count: u64,
    /// The latest.
    pub last: Event,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    by_stream: BTreeMap<u32, StreamFaults>,
    /// Of streams that were never attached; not kept one by one, as a device may
    /// make up as many as it likes.
    unknown_streams: u64,
    lost: u64,
}

/// What [`Smmu::poll_errors`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorReport {
    /// Bits of `GERROR` that were active.
    pub active: u32,
    /// The SMMU is in service failure mode (12.3): it has stopped translating.
    /// It was turned off; only a reset of the hardware helps.
    pub service_failure: bool,
}

impl<H: SmmuHost, M: TableMemory> Smmu<H, M> {
    /// Takes up to `max` events out of the queue, counts them by stream and
    /// shows them to `sink`, which runs with no lock held. A stalled transaction
    /// is aborted.
    ///
    /// # Errors
    ///
    /// [`EventQueueError`]; events were lost, later ones are not affected.
    pub fn poll_events(
        &self,
        max: u32,
        mut sink: impl FnMut(&Event),
    ) -> Result<EventBatch, EventQueueError> {
        let mut stalled = Vec::new();
        let mut seen = Vec::new();
        let batch = {
            let known: Vec<u32> = self.tables.lock().attached.keys().copied().collect();
            let mut events = self.events.lock();
            let mut faults = self.faults.lock();
            let batch = events.drain(&self.errors, max, |event| {
                if known.binary_search(&event.sid).is_ok() {
                    let stream = faults.by_stream.entry(event.sid).or_insert(StreamFaults {
                        count: 0,
                        last: *event,
                    });
                    stream.count += 1;
                    stream.last = *event;
                } else {
                    faults.unknown_streams += 1;
                }
                if event.stall {
                    stalled.push((event.sid, event.stag));
                }
                seen.push(*event);
            });
            let lost = batch.as_ref().map_or(true, |batch| batch.lost);
            faults.lost += u64::from(lost);
            batch
        };
        seen.iter().for_each(&mut sink);
        let batch = batch?;
        for (sid, stag) in stalled {
            let abort = Command::Resume {
                sid,
                stag,
                resume: Resume::Abort,
            };
            // A record may be nonsense; the SMMU may not stall at all.
            if crate::format::check_command(&abort.encode(), &self.features).is_ok() {
                // If the queue is full the transaction waits for the next poll
                // of whoever drains it; nothing is released on its account.
                let _not_needed = self.commands.push_sync(&[abort.encode()]);
            }
        }
        Ok(batch)
    }

    /// Faults of a stream so far.
    pub fn faults_of(&self, sid: u32) -> Option<StreamFaults> {
        self.faults.lock().by_stream.get(&sid).copied()
    }

    /// Events of streams that were never attached.
    pub fn unknown_stream_events(&self) -> u64 {
        self.faults.lock().unknown_streams
    }

    /// Calls to [`poll_events`](Self::poll_events) that found events missing.
    pub fn event_losses(&self) -> u64 {
        self.faults.lock().lost
    }

    /// Looks at `GERROR` and handles what is active: command queue errors as the
    /// queue does, service failure by turning the SMMU off, the rest (aborted
    /// interrupt or queue writes) by acknowledging.
    pub fn poll_errors(&self) -> ErrorReport {
        let active = self.errors.active(&self.host);
        if active & r::GERROR_CMDQ != 0 {
            self.commands.poll_errors();
        }
        let service_failure = active & r::GERROR_SFM != 0;
        if service_failure {
            self.host.write32(r::CR0, 0);
        }
        self.errors
            .acknowledge(&self.host, active & !r::GERROR_CMDQ);
        ErrorReport {
            active,
            service_failure,
        }
    }
}
