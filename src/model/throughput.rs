//! From time per request to MB/s.
//!
//! Requests circulate through three stations: the device, the processor and the
//! IOMMU. None of them can be busy for longer than the time between two
//! completions, and with `depth` requests on their way a request's whole journey
//! takes at most `depth` times that. The largest of these bounds is the modelled
//! time per request (operational analysis: P. Denning and J. Buzen, "The
//! Operational Analysis of Queueing Network Models", ACM Computing Surveys 10(3),
//! 1978, section 8, asymptotic bounds). It is reached when the stations' times do
//! not vary; where they do, real throughput lies below.

use dmabench_flushq::BackendCounts;

use super::{HardwareProfile, StorageDevice, Waits};

/// What one request takes on average, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestTime {
    /// Its bytes.
    pub bytes: f64,
    /// The device's time: command and transfer.
    pub device_ns: f64,
    /// Processor time of map and unmap, with the cache maintenance of both.
    pub cpu_ns: f64,
    /// Processor time to issue commands and ring doorbells.
    pub issue_ns: f64,
    /// Time of the IOMMU: commands and syncs.
    pub iommu_ns: f64,
}

/// What was run, for [`RequestTime::of`].
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Requests of one pass. Positive.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Processor time of one request on the machine of the run.
    pub cpu_ns: f64,
    /// What was asked of the IOMMU.
    pub counts: &'a BackendCounts,
    /// Requests for which it was asked. Positive.
    pub counted_requests: u64,
    /// Whether the device goes through translations.
    pub translated: bool,
    /// Whether each request changes translation tables.
    pub maps: bool,
}

const PAGE: f64 = 4096.0;

impl RequestTime {
    /// The mean request of `load` on the machine of `profile`, with `device`.
    pub fn of(profile: &HardwareProfile, device: &StorageDevice, load: &Load<'_>) -> Self {
        let requests = load.requests.max(1) as f64;
        let bytes = load.bytes as f64 / requests;
        let pages = (bytes / PAGE).max(1.0);
        let per_request = |all: f64| all / load.counted_requests.max(1) as f64;
        let walks_ns = if load.translated {
            pages * device.walks_per_page * profile.memory.walk_ns() as f64
        } else {
            0.0
        };
        RequestTime {
            bytes,
            device_ns: device.mean_service_ns(load.requests, load.bytes) + walks_ns,
            cpu_ns: load.cpu_ns * profile.cpu_time_factor
                + profile.memory.maintenance_ns(pages, load.maps),
            issue_ns: per_request(profile.processor_ns(load.counts)),
            iommu_ns: per_request(profile.iommu_ns(load.counts)),
        }
    }

    /// What the processor spends on the IOMMU with nothing else under way: issuing commands, and
    /// the wait for them but for what passes beside the next transfer.
    pub fn waited_ns(&self, waits: Waits) -> f64 {
        self.issue_ns
            + match waits {
                Waits::Never | Waits::BeforeNext => self.iommu_ns,
                Waits::BesideNext => (self.iommu_ns - self.device_ns).max(0.0),
            }
    }

    /// Time between two completions, with `depth` requests on their way.
    pub fn interval_ns(&self, waits: Waits, depth: u32) -> f64 {
        let depth = f64::from(depth.max(1));
        let Self {
            device_ns,
            cpu_ns,
            issue_ns,
            iommu_ns,
            ..
        } = *self;
        match waits {
            Waits::Never => device_ns.max(cpu_ns).max((device_ns + cpu_ns) / depth),
            Waits::BeforeNext => {
                // A wait keeps its processor: strict unmaps poll.
                let host_ns = cpu_ns + issue_ns + iommu_ns;
                device_ns.max(host_ns).max((device_ns + host_ns) / depth)
            }
            Waits::BesideNext => (device_ns.max(cpu_ns + issue_ns))
                .max(iommu_ns)
                .max((device_ns + cpu_ns) / depth),
        }
    }
}

/// Modelled throughput in 10^6 bytes per second; 0 where nothing takes time.
pub fn modelled_mb_per_s(request: &RequestTime, waits: Waits, depth: u32) -> f64 {
    let interval_ns = request.interval_ns(waits, depth);
    if interval_ns > 0.0 {
        request.bytes * 1e3 / interval_ns
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use dmabench_flushq::{HardwareCosts, RangeCommands};

    use super::*;
    use crate::model::MemoryCosts;

    /// dd of the 2021 thread: 128 KiB, 469 us, and 153 us for strict.
    const DD: RequestTime = RequestTime {
        bytes: 131_072.0,
        device_ns: 468_907.0,
        cpu_ns: 0.0,
        issue_ns: 6_072.0,
        iommu_ns: 146_619.0,
    };

    #[test]
    fn dd_has_the_rates_of_the_thread_and_a_pipelined_strict_nearly_that_of_lazy() {
        let strict = modelled_mb_per_s(&DD, Waits::BeforeNext, 1);
        assert!((strict / 210.9 - 1.0).abs() < 0.003, "{strict}");
        let lazy = RequestTime {
            issue_ns: 2.0,
            iommu_ns: 35.0,
            ..DD
        };
        let lazy = modelled_mb_per_s(&lazy, Waits::BeforeNext, 1);
        assert!((lazy / 279.6 - 1.0).abs() < 0.003, "{lazy}");
        let pipelined = modelled_mb_per_s(&DD, Waits::BesideNext, 1);
        assert!((pipelined / lazy - 1.0).abs() < 0.02, "{pipelined}");
    }

    #[test]
    fn what_cannot_be_hidden_is_not_hidden() {
        let slow = RequestTime {
            iommu_ns: 2.0 * DD.device_ns,
            ..DD
        };
        assert_eq!(slow.interval_ns(Waits::BesideNext, 1), slow.iommu_ns);
        let busy = RequestTime {
            issue_ns: 2.0 * DD.device_ns,
            ..DD
        };
        assert_eq!(busy.interval_ns(Waits::BesideNext, 9), busy.issue_ns);
        let deep = DD.interval_ns(Waits::BeforeNext, 31);
        assert_eq!(deep, DD.device_ns, "others fill the gap");
        let nothing = RequestTime {
            device_ns: 0.0,
            issue_ns: 0.0,
            iommu_ns: 0.0,
            ..DD
        };
        assert_eq!(modelled_mb_per_s(&nothing, Waits::Never, 0), 0.0);
    }

    fn any_time() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), 0.0..1e6_f64, Just(u64::MAX as f64), Just(1e300)]
    }

    fn any_waits() -> impl Strategy<Value = Waits> {
        prop_oneof![
            Just(Waits::Never),
            Just(Waits::BeforeNext),
            Just(Waits::BesideNext)
        ]
    }

    fn any_ns() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..1_000_000_u64, Just(u64::MAX), any::<u64>()]
    }

    /// A profile and a device of these figures.
    fn made_of(f: &[u64; 11], ranges: bool) -> (HardwareProfile, StorageDevice) {
        let mut profile = crate::model::default_profile();
        profile.costs = HardwareCosts {
            issue_ns: f[0],
            doorbell_ns: f[1],
            command_ns: f[2],
            sync_ns: f[3],
            range_commands: if ranges {
                RangeCommands::Supported
            } else {
                RangeCommands::Absent
            },
        };
        profile.memory = MemoryCosts {
            table_line_ns: f[4],
            buffer_page_ns: f[5],
            walk_base_ns: f[6],
            walk_read_ns: f[7],
        };
        profile.cpu_time_factor = 0.001 + f[8] as f64 / 1e6;
        let mut device = StorageDevice::emmc_2021();
        device.command_ns = f[9];
        device.walks_per_page = f[10] as f64 / 1e6;
        (profile, device)
    }

    proptest! {
        #[test]
        fn a_slower_board_is_never_faster_and_nothing_overflows(
            figures in prop::array::uniform11(any_ns()),
            which in 0..11_usize,
            more in any_ns(),
            requests in prop_oneof![Just(0), 1..1000_u64, Just(u64::MAX)],
            bytes in any_ns(),
            asked in prop::array::uniform3(any_ns()),
            cpu_ns in any_time(),
            flags in any::<[bool; 3]>(),
            waits in any_waits(),
        ) {
            let counts = BackendCounts {
                ranges: asked[0] / 2,
                commands_by_address: asked[0] / 2,
                commands_by_context: asked[1] / 2,
                flush_alls: asked[1] / 2,
                syncs: asked[2],
            };
            let load = Load {
                requests,
                bytes,
                cpu_ns,
                counts: &counts,
                counted_requests: requests,
                translated: flags[0],
                maps: flags[1],
            };
            let rate = |figures: &[u64; 11]| {
                let (profile, device) = made_of(figures, flags[2]);
                let request = RequestTime::of(&profile, &device, &load);
                modelled_mb_per_s(&request, waits, device.queue_depth)
            };
            let mut slower = figures;
            slower[which] = slower[which].saturating_add(more);
            let (fast, slow) = (rate(&figures), rate(&slower));
            prop_assert!(fast.is_finite() && fast >= 0.0);
            prop_assert!(slow <= fast * (1.0 + 1e-9) || fast == 0.0, "{slow} {fast}");
        }
    }

    proptest! {
        #[test]
        fn more_time_is_never_faster_and_more_depth_never_slower(
            times in [any_time(), any_time(), any_time(), any_time()],
            more in any_time(),
            which in 0..4_usize,
            waits in any_waits(),
            depth in 0..u32::MAX,
        ) {
            let of = |t: [f64; 4]| RequestTime {
                bytes: 4096.0,
                device_ns: t[0],
                cpu_ns: t[1],
                issue_ns: t[2],
                iommu_ns: t[3],
            };
            let mut slower = times;
            slower[which] += more;
            let (fast, slow) = (of(times), of(slower));
            let interval = fast.interval_ns(waits, depth);
            prop_assert!(interval.is_finite() && interval >= 0.0);
            prop_assert!(slow.interval_ns(waits, depth) >= interval);
            prop_assert!(fast.interval_ns(waits, depth + 1) <= interval);
            let rate = modelled_mb_per_s(&fast, waits, depth);
            prop_assert!(rate.is_finite() && rate >= 0.0);
            // To wait beside the next transfer is never worse than before it.
            let beside = fast.interval_ns(Waits::BesideNext, depth);
            prop_assert!(beside <= fast.interval_ns(Waits::BeforeNext, depth));
        }
    }

    #[test]
    fn only_what_outlasts_the_next_transfer_is_waited_for() {
        let request = RequestTime {
            issue_ns: 10.0,
            iommu_ns: 900.0,
            ..DD
        };
        assert_eq!(request.waited_ns(Waits::BeforeNext), 910.0);
        assert_eq!(request.waited_ns(Waits::BesideNext), 10.0);
        let short = RequestTime {
            device_ns: 300.0,
            ..request
        };
        assert_eq!(short.waited_ns(Waits::BesideNext), 610.0);
    }
}
