//! Giving back what was cached and not needed, on the caller's clock.

use dmabench_platform::{
    TimeNs,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::domain::IovaDomain;

/// How long a magazine must lie in the depot unused: Linux's delay
/// (`IOVA_DEPOT_DELAY` in `drivers/iommu/iova.c`).
pub(crate) const PERIOD_NS: u64 = 100_000_000;

/// Nothing to trim.
const NEVER: u64 = u64::MAX;

/// When the next trim is due.
#[derive(Debug)]
pub(crate) struct Deadline(AtomicU64);

impl Deadline {
    pub(crate) fn new() -> Self {
        Deadline(AtomicU64::new(NEVER))
    }

    /// Something came into a depot. Hot paths know no time, so the deadline is
    /// "at once"; the call that it brings stamps the time.
    #[inline]
    pub(crate) fn expect(&self) {
        if self.0.load(Ordering::Relaxed) == NEVER {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn set(&self, due: u64) {
        self.0.store(due, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<TimeNs> {
        match self.0.load(Ordering::Relaxed) {
            NEVER => None,
            due => Some(TimeNs(due)),
        }
    }
}

impl IovaDomain {
    pub(crate) fn expect_trim(&self) {
        self.deadline.expect();
    }

    /// Gives cached ranges back that nobody needed for a period of 100 ms, and
    /// the memory of their magazines. To be called at or after
    /// [`next_deadline`](Self::next_deadline); calls before it do nothing. No
    /// hot path waits for it longer than one magazine takes.
    pub fn trim(&self, now: TimeNs) {
        match self.deadline.get() {
            Some(due) if due <= now => {}
            _ => return,
        }
        // A due time of 0 starts the first period, which says nothing yet.
        let first = self.deadline.get() == Some(TimeNs(0));
        let mut left = 0;
        for class in 0..self.class_count {
            let depot = &self.depots[class as usize];
            let idle = depot.lock().end_period();
            for _ in 0..if first { 0 } else { idle } {
                let mut depot = depot.lock();
                let Some(magazine) = depot.take_full() else {
                    break;
                };
                // Under the depot's lock, so that a drain does not miss them.
                self.empty_to_index(magazine, class);
            }
            let mut depot = depot.lock();
            depot.start_period();
            left += depot.len();
        }
        self.close_high();
        if left == 0 {
            self.deadline.set(NEVER);
        } else {
            self.deadline
                .set(now.saturating_add_ns(PERIOD_NS).0.clamp(1, NEVER - 1));
        }
    }

    /// When to call [`trim`](Self::trim) next; `None` while there is nothing to
    /// trim. 0 means at once: the domain cannot know the time before.
    pub fn next_deadline(&self) -> Option<TimeNs> {
        self.deadline.get()
    }
}
