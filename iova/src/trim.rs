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

/// In a deadline: a trim is under way. So no time is later than 2^63 ns.
const TRIMMING: u64 = 1 << 63;

/// When the next trim is due.
///
/// A magazine that comes into a depot during a trim may come too late for that
/// trim to see it. It then finds `TRIMMING` here and replaces it, and the trim's
/// own "nothing is left" comes to nothing.
#[derive(Debug)]
pub(crate) struct Deadline(AtomicU64);

/// A trim that is under way, and the deadline that brought it.
pub(crate) struct Due(u64);

impl Due {
    /// A due time of 0 starts the first period, which says nothing yet.
    fn is_first(&self) -> bool {
        self.0 == 0
    }
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Deadline(AtomicU64::new(NEVER))
    }

    /// Something came into a depot, whose lock the caller has released. Hot
    /// paths know no time, so the deadline is "at once"; the call that it brings
    /// stamps the time.
    #[inline]
    pub(crate) fn expect(&self) {
        let mut due = self.0.load(Ordering::Relaxed);
        while due & TRIMMING != 0 {
            match self
                .0
                .compare_exchange(due, 0, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => due = now,
            }
        }
    }

    /// Begins a trim, if one is due and none is under way.
    pub(crate) fn begin(&self, now: TimeNs) -> Option<Due> {
        let due = self.0.load(Ordering::Relaxed);
        if due & TRIMMING != 0 || due > now.0 {
            return None;
        }
        // Whoever takes a depot's lock after this trim has had it sees this
        // mark, or something newer.
        self.0
            .compare_exchange(due, due | TRIMMING, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
            .then_some(Due(due))
    }

    /// Ends a trim that left something for `next`, or nothing.
    pub(crate) fn end(&self, due: Due, next: Option<TimeNs>) {
        match next {
            Some(next) => self
                .0
                .store(next.0.clamp(1, TRIMMING - 1), Ordering::Relaxed),
            None => {
                // Unless something came meanwhile.
                let _ = self.0.compare_exchange(
                    due.0 | TRIMMING,
                    NEVER,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        }
    }

    /// For the model that must fail: as `end`, whatever came meanwhile.
    #[cfg(all(test, loom))]
    pub(crate) fn forget(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<TimeNs> {
        match self.0.load(Ordering::Relaxed) {
            NEVER => None,
            due => Some(TimeNs(due & !TRIMMING)),
        }
    }
}

impl IovaDomain {
    pub(crate) fn expect_trim(&self) {
        self.deadline.expect();
    }

    /// Gives cached ranges back that nobody needed for a period of 100 ms, and
    /// the memory of their magazines. To be called at or after
    /// [`next_deadline`](Self::next_deadline); calls before it do nothing, nor
    /// do calls while another thread is at it. No hot path waits for it longer
    /// than one magazine takes.
    pub fn trim(&self, now: TimeNs) {
        let Some(due) = self.deadline.begin(now) else {
            return;
        };
        let mut left = 0;
        for class in 0..self.class_count {
            let depot = &self.depots[class as usize];
            let idle = depot.lock().end_period();
            for _ in 0..if due.is_first() { 0 } else { idle } {
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
        let next = (left != 0).then(|| now.saturating_add_ns(PERIOD_NS));
        self.deadline.end(due, next);
    }

    /// When to call [`trim`](Self::trim) next; `None` while there is nothing to
    /// trim. 0 means at once: the domain cannot know the time before.
    pub fn next_deadline(&self) -> Option<TimeNs> {
        self.deadline.get()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_set_moved_and_cleared() {
        let deadline = Deadline::new();
        assert_eq!(deadline.get(), None);
        assert!(deadline.begin(TimeNs(u64::MAX)).is_none());
        deadline.expect();
        assert_eq!(deadline.get(), Some(TimeNs(0)));
        let due = deadline.begin(TimeNs(5)).unwrap();
        assert!(due.is_first());
        // Another does nothing meanwhile.
        assert!(deadline.begin(TimeNs(5)).is_none());
        deadline.end(due, Some(TimeNs(100)));
        deadline.expect();
        assert_eq!(deadline.get(), Some(TimeNs(100)));
        assert!(deadline.begin(TimeNs(99)).is_none());
        let due = deadline.begin(TimeNs(100)).unwrap();
        assert!(!due.is_first());
        assert_eq!(deadline.get(), Some(TimeNs(100)));
        deadline.end(due, None);
        assert_eq!(deadline.get(), None);
    }

    #[test]
    fn what_comes_during_a_trim_is_not_forgotten() {
        let deadline = Deadline::new();
        deadline.expect();
        let due = deadline.begin(TimeNs(0)).unwrap();
        deadline.expect();
        deadline.end(due, None);
        assert_eq!(deadline.get(), Some(TimeNs(0)));
    }

    #[test]
    fn the_end_of_time_is_a_deadline_like_any_other() {
        let deadline = Deadline::new();
        deadline.expect();
        let due = deadline.begin(TimeNs(u64::MAX)).unwrap();
        deadline.end(due, Some(TimeNs(u64::MAX)));
        assert!(deadline.begin(TimeNs(u64::MAX)).is_some());
    }
}
