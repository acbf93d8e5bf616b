//! The command queue: batches that are ready, and who publishes them.

use dmabench_pgtable::TableMemory;
use dmabench_platform::sync::{Backoff, atomic::Ordering};

use super::{CommandQueue, command::Flaw, place::Place};
use crate::{SmmuHost, format::registers};

impl<H: SmmuHost, M: TableMemory> CommandQueue<H, M> {
    /// Marks the batch from `start` on, whose entries are written, as ready.
    #[inline(always)]
    pub(super) fn mark_ready(&self, start: u64, end: Place) {
        let ready = if self.has(Flaw::ReadyRelaxed) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.end_of(start).store(end.0, ready);
    }

    /// Returns once everything before `end` is published, by the caller or by
    /// others. The caller's own batch begins at `start`, ends with `end`, is ready
    /// and held.
    #[inline(always)]
    pub(super) fn publish(&self, start: u64, end: Place) {
        let published = Place(self.published.load(Ordering::Acquire));
        let first = published.position();
        // Nobody claims a place before a batch that is held.
        if first == start || (first < start && self.claim(published)) {
            self.publish_from(first, start, end);
        } else {
            self.publish_in_turn(start, end);
        }
    }

    #[cold]
    pub(super) fn publish_in_turn(&self, start: u64, end: Place) {
        if let Some(first) = self.wait_for_turn(start, end.position()) {
            self.publish_from(first, start, end);
        }
    }

    /// Publishes the batches from `first` on, as far as they are ready, and at
    /// least up to `end`. The caller is the only one that may: see the module.
    /// Its own batch begins at `start` and ends with `end`; or both are `first`.
    #[inline(always)]
    fn publish_from(&self, first: u64, start: u64, end: Place) {
        let mut ready = Place::published(first, false);
        while ready.position() < start {
            ready = match self.ready_batch(ready.position()) {
                Some(next) => next,
                None => self.wait_until_ready(ready.position()),
            };
        }
        if ready.position() < end.position() {
            ready = end;
        }
        // Whatever else is ready: its producer finds it published.
        while let Some(next) = self.ready_batch(ready.position()) {
            ready = next;
        }
        let position = ready.position();
        if !self.features.coherent {
            self.clean(first, position);
        }
        self.host.publish();
        let pointer = self.pointer(position);
        self.host.write32(registers::CMDQ_PROD, pointer);
        let published = Place::published(position, ready.synced());
        self.published.store(published.0, Ordering::Release);
    }

    /// The position from which on the caller, whose batch from `start` to `end` is
    /// ready and held, has to publish; `None` once others have published it.
    fn wait_for_turn(&self, start: u64, end: u64) -> Option<u64> {
        let mut backoff = Backoff::new();
        loop {
            let published = Place(self.published.load(Ordering::Acquire));
            if published.position() >= end {
                return None;
            }
            if published.position() >= start || self.has(Flaw::NoTurn) {
                return Some(published.position());
            }
            if self.claim(published) {
                return Some(published.position());
            }
            backoff.wait();
        }
    }

    /// Publishes what is ready and has no producer that waits for it.
    pub(super) fn publish_waiting(&self) {
        let published = Place(self.published.load(Ordering::Acquire));
        if self.claim(published) {
            let first = published.position();
            self.publish_from(first, first, published);
        }
    }

    /// Claims the batches behind `published`, if the first is ready and nobody
    /// sees to it. Whoever has the claim publishes them.
    #[inline(always)]
    fn claim(&self, published: Place) -> bool {
        if published.held() {
            return false;
        }
        let position = published.position();
        let Some(first) = self.ready_batch(position) else {
            return false;
        };
        // Of a later lap: `published` is stale, and the exchange fails. (Or the
        // consumer lied; then it is nobody's any more.)
        let later = first.position() > position + self.capacity();
        if first.held() && !later && !self.has(Flaw::ClaimHeld) {
            return false;
        }
        self.published
            .compare_exchange(
                published.0,
                published.claimed().0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    #[cold]
    fn wait_until_ready(&self, position: u64) -> Place {
        let mut backoff = Backoff::new();
        loop {
            if let Some(end) = self.ready_batch(position) {
                return end;
            }
            backoff.wait();
        }
    }

    /// The end of the batch that begins at `position`, once it is ready.
    #[inline(always)]
    fn ready_batch(&self, position: u64) -> Option<Place> {
        let end = Place(self.end_of(position).load(Ordering::Acquire));
        (end.position() > position).then_some(end)
    }
}
