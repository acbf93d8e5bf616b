//! The command queue: batches that are ready, and who publishes them.

use dmabench_pgtable::TableMemory;
use dmabench_platform::sync::atomic::Ordering;

use super::{CommandQueue, command::Flaw, place::Place};
use crate::{SmmuHost, format::registers};

impl<H: SmmuHost, M: TableMemory> CommandQueue<H, M> {
    /// Marks the batch from `start` to `end`, whose entries are written, as ready.
    /// If the baton lies there, carries it on; else whoever carries it past here
    /// sees to the batch.
    #[inline(always)]
    pub(super) fn mark_ready(&self, start: u64, end: Place) {
        let order = if self.has(Flaw::ReadyRelaxed) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        // An addition, an exchange and a compare-exchange for each batch of a lone
        // producer: but only the first is on a word that all producers share.
        let before = Place(self.end_of(start).swap(end.0, order));
        if before.is_baton() || self.has(Flaw::NoBaton) {
            self.carry(end);
        }
    }

    /// Carries the baton on from `ready`, the end of a batch that is: over every
    /// batch that is ready, and publishes if one of them is urgent. Lays it down
    /// before the first that is not ready, whose producer finds it.
    #[inline(always)]
    fn carry(&self, mut ready: Place) {
        let mut urgent = ready.urgent();
        loop {
            let next = self.end_of(ready.position());
            let found = Place(next.load(Ordering::Acquire));
            if found.position() > ready.position() {
                urgent |= found.urgent() && !self.has(Flaw::ForgetUrgent);
                ready = found;
                continue;
            }
            if urgent {
                self.write_producer(ready);
                urgent = false;
            }
            let position = ready.position();
            self.progress.carried.store(position, Ordering::Release);
            let laid = if self.has(Flaw::LayDownBlindly) {
                next.store(Place::baton(position).0, Ordering::Release);
                true
            } else {
                // Fails if the batch has become ready: then it is ours to carry on.
                next.compare_exchange(
                    found.0,
                    Place::baton(position).0,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
            };
            if laid {
                return;
            }
        }
    }

    /// Publishes everything before `ready`. The caller has the baton.
    #[inline(always)]
    fn write_producer(&self, ready: Place) {
        let position = ready.position();
        if !self.features.coherent {
            self.clean(self.published_position(), position);
        }
        self.host.publish();
        let pointer = self.pointer(position);
        self.host.write32(registers::CMDQ_PROD, pointer);
        let published = Place::published(position, ready.synced());
        self.progress
            .published
            .store(published.0, Ordering::Release);
    }

    /// Publishes what is ready and not urgent, unless somebody else is about to
    /// carry the baton on.
    pub(super) fn publish_waiting(&self) {
        let position = self.progress.carried.load(Ordering::Acquire);
        if self.published_position() >= position {
            return;
        }
        let slot = self.end_of(position);
        // Taken up: the slot looks as if nobody had been there.
        let taken = slot.compare_exchange(
            Place::baton(position).0,
            0,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if taken.is_ok() {
            self.carry(Place::batch_end(position, false, true));
        }
    }
}
