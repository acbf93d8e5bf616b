//! Time is the caller's. Hot paths never read a clock: `poll(now)` calls bring
//! it, and bounded waits read one only once they have to wait.

use crate::sync::atomic::{AtomicU64, Ordering};

/// A point in time, in nanoseconds since an origin of the clock's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct TimeNs(pub u64);

impl TimeNs {
    /// `self + span_ns`, at most the end of time.
    #[inline]
    pub const fn saturating_add_ns(self, span_ns: u64) -> TimeNs {
        TimeNs(self.0.saturating_add(span_ns))
    }

    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: TimeNs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How long a bounded wait may last, in nanoseconds. Relative, because a
/// deadline would cost every caller a clock reading and nearly every wait is
/// over before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Timeout(pub u64);

impl Timeout {
    /// One second: what Linux grants the command queue
    /// (`ARM_SMMU_POLL_TIMEOUT_US` in `arm-smmu-v3.h`).
    pub const DEFAULT: Timeout = Timeout(1_000_000_000);
}

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// The time now. Never decreases as seen by one thread.
    fn now(&self) -> TimeNs;
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> TimeNs {
        (**self).now()
    }
}

impl<C: Clock + ?Sized> Clock for alloc::sync::Arc<C> {
    fn now(&self) -> TimeNs {
        (**self).now()
    }
}

/// A clock that stands still until it is told to move: simulations and tests.
#[derive(Debug)]
pub struct VirtualClock(AtomicU64);

impl VirtualClock {
    /// A clock that shows `start`.
    pub fn new(start: TimeNs) -> Self {
        VirtualClock(AtomicU64::new(start.0))
    }

    /// Moves the clock forward by `span_ns`, at most to the end of time, and
    /// returns the new time.
    pub fn advance_ns(&self, span_ns: u64) -> TimeNs {
        let later = |now: u64| TimeNs(now).saturating_add_ns(span_ns).0;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(later(now)))
            .map_or(TimeNs(u64::MAX), |now| TimeNs(later(now)))
    }

    /// Moves the clock to `to`; a clock never goes back, so an earlier time
    /// leaves it where it is.
    pub fn advance_to(&self, to: TimeNs) {
        self.0.fetch_max(to.0, Ordering::Relaxed);
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        VirtualClock::new(TimeNs(0))
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> TimeNs {
        TimeNs(self.0.load(Ordering::Relaxed))
    }
}

/// The operating system's monotonic clock, counted from the creation of the
/// value.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(std::time::Instant);

#[cfg(feature = "std")]
impl MonotonicClock {
    /// A clock that starts at 0 now.
    pub fn new() -> Self {
        MonotonicClock(std::time::Instant::now())
    }
}

#[cfg(feature = "std")]
impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "std")]
impl Clock for MonotonicClock {
    fn now(&self) -> TimeNs {
        // 2^64 ns are 584 years.
        TimeNs(self.0.elapsed().as_nanos() as u64)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn virtual_clock_never_goes_back() {
        let clock = VirtualClock::default();
        assert_eq!(clock.advance_ns(5), TimeNs(5));
        clock.advance_to(TimeNs(3));
        assert_eq!(clock.now(), TimeNs(5));
        clock.advance_to(TimeNs(9));
        assert_eq!(clock.now().since(TimeNs(5)), 4);
        assert_eq!(TimeNs(1).since(TimeNs(2)), 0);
        assert_eq!(clock.advance_ns(u64::MAX), TimeNs(u64::MAX));
        assert_eq!(clock.now(), TimeNs(u64::MAX));
    }
}
