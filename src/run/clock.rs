//! The clock of the latency figures: the processor's own counter, read in the
//! program, because a system clock costs as much as what is measured.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::report::ClockInfo;

/// How long the counter is compared with the system clock. The error of the two
/// readings is some 50 ns at each end: 5 parts per million.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Pairs of readings from which the cost of one is taken.
const COST_PAIRS: usize = 4096;

/// A counter that runs at a fixed rate.
#[derive(Debug, Clone, Copy)]
pub struct TickClock {
    source: Source,
    tick_ns: f64,
    cost_ns: f64,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    #[cfg(target_arch = "x86_64")]
    Tsc,
    #[cfg(target_arch = "aarch64")]
    Cntvct,
    /// Nanoseconds since the instant.
    Monotonic(Instant),
}

impl TickClock {
    /// The best counter of this machine, measured against the system clock.
    pub fn calibrate() -> Self {
        let mut clock = TickClock {
            source: Source::best(),
            tick_ns: 1.0,
            cost_ns: 0.0,
        };
        if !matches!(clock.source, Source::Monotonic(_)) {
            clock.tick_ns = clock.measure_tick();
        }
        clock.cost_ns = clock.measure_cost();
        clock
    }

    /// The counter now. Instructions before it have finished, later ones have
    /// not begun.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        match self.source {
            #[cfg(target_arch = "x86_64")]
            Source::Tsc => tsc(),
            #[cfg(target_arch = "aarch64")]
            Source::Cntvct => cntvct(),
            // 2^64 ns are 584 years.
            Source::Monotonic(start) => start.elapsed().as_nanos() as u64,
        }
    }

    /// Nanoseconds of `ticks`.
    pub fn ns(&self, ticks: f64) -> f64 {
        ticks * self.tick_ns
    }

    /// For the report.
    pub fn info(&self) -> ClockInfo {
        ClockInfo {
            name: match self.source {
                #[cfg(target_arch = "x86_64")]
                Source::Tsc => "TSC",
                #[cfg(target_arch = "aarch64")]
                Source::Cntvct => "CNTVCT",
                Source::Monotonic(_) => "CLOCK_MONOTONIC",
            }
            .to_owned(),
            tick_ns: self.tick_ns,
            cost_ns: self.cost_ns,
            cost_subtracted: false,
        }
    }

    fn measure_tick(&self) -> f64 {
        let (begin, first) = (Instant::now(), self.now());
        while begin.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (elapsed, last) = (begin.elapsed(), self.now());
        // A counter that stands still would divide by zero.
        elapsed.as_nanos() as f64 / last.saturating_sub(first).max(1) as f64
    }

    /// What a call that takes no time would show: the median difference of two
    /// readings in a row.
    fn measure_cost(&self) -> f64 {
        let mut ticks: Vec<u64> = (0..COST_PAIRS)
            .map(|_| {
                let first = black_box(self.now());
                self.now().saturating_sub(first)
            })
            .collect();
        let middle = ticks.len() / 2;
        self.ns(*ticks.select_nth_unstable(middle).1 as f64)
    }
}

impl Source {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if tsc_is_steady() {
            return Source::Tsc;
        }
        #[cfg(target_arch = "aarch64")]
        return Source::Cntvct;
        #[cfg(not(target_arch = "aarch64"))]
        Source::Monotonic(Instant::now())
    }
}

/// Whether the time-stamp counter runs at one rate in every power state
/// (CPUID 8000_0007h, EDX bit 8).
#[cfg(target_arch = "x86_64")]
fn tsc_is_steady() -> bool {
    use std::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tsc() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: LFENCE is part of SSE2 and RDTSC of every x86-64; Linux and the
    // other systems Rust runs on leave CR4.TSD clear, and neither touches
    // memory. The fences keep what is measured between the two readings.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn cntvct() -> u64 {
    let ticks: u64;
    // SAFETY: operating systems let EL0 read CNTVCT_EL0 (CNTKCTL_EL1.EL0VCTEN);
    // the barriers and the read touch no memory.
    unsafe {
        std::arch::asm!("isb", "mrs {}, cntvct_el0", "isb", out(reg) ticks, options(nomem, nostack));
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_agrees_with_the_system() {
        let clock = TickClock::calibrate();
        let (begin, first) = (Instant::now(), clock.now());
        std::thread::sleep(Duration::from_millis(30));
        let shown = clock.ns((clock.now() - first) as f64);
        let elapsed = begin.elapsed().as_nanos() as f64;
        assert!((shown / elapsed - 1.0).abs() < 0.05, "{shown} {elapsed}");
        let info = clock.info();
        assert!(info.cost_ns > 0.0 && info.cost_ns < 10_000.0, "{info:?}");
    }
}
