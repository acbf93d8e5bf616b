//! Where modelled figures come from: the hardware profile and the storage
//! device, each with its source. Nothing here is measured by this tool.

use dmabench_flushq::{BackendCounts, HardwareProfile};

use crate::report::{Parameter, Profile, ServiceDevice};

/// The profile behind `modelled_ns_per_request`.
pub const PROFILE: HardwareProfile = HardwareProfile::SMMUV3_SERVER_2020_RIL;

/// Hardware time of `counts`, in nanoseconds, for a caller that waits for every
/// sync.
pub fn hardware_ns(profile: &HardwareProfile, counts: &BackendCounts) -> f64 {
    counts.commands() as f64 * profile.command_ns as f64
        + counts.syncs as f64 * profile.sync_ns as f64
}

/// The profile, as the report prints it.
pub fn profile_for_report(profile: &HardwareProfile) -> Profile {
    let parameter = |name: &str, ns: u64| Parameter {
        name: name.to_owned(),
        value: ns as f64,
        unit: "ns".to_owned(),
        source: profile.source.to_owned(),
    };
    Profile {
        name: profile.name.to_owned(),
        description: "An Arm server with SMMUv3, one thread, range invalidation".to_owned(),
        source: profile.source.to_owned(),
        formula: "invalidation commands x command_ns + CMD_SYNCs x sync_ns, over the requests; \
                  the caller waits for every sync"
            .to_owned(),
        parameters: vec![
            parameter("sync_ns", profile.sync_ns),
            parameter("command_ns", profile.command_ns),
        ],
    }
}

/// A storage device that serves one request after the other.
#[derive(Debug, Clone, Copy)]
pub struct StorageDevice {
    /// Name in the report.
    pub name: &'static str,
    /// Time of one request besides the transfer, in nanoseconds.
    pub command_ns: u64,
    /// Transfer rate, in bytes per second.
    pub bytes_per_second: u64,
}

impl StorageDevice {
    /// The eMMC of the board of the 2021 thread. The thread gives the bus (192
    /// MHz, at most 300 MB/s) and 279.6 MB/s for lazy `dd`, whose requests are
    /// 128 KiB: 469 us each, 437 us of it on the bus, so 32 us are left for the
    /// command.
    pub const EMMC_2021: StorageDevice = StorageDevice {
        name: "emmc-2021",
        command_ns: 32_000,
        bytes_per_second: 300_000_000,
    };

    /// Virtual time that a request of `bytes` takes.
    pub fn service_ns(&self, bytes: u64) -> u64 {
        let transfer = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        (u64::try_from(transfer).unwrap_or(u64::MAX)).saturating_add(self.command_ns)
    }

    /// As the report prints it.
    pub fn for_report(&self) -> ServiceDevice {
        let thread = "linux-mmc and iommu lists, 2021-06-21, \"[PATCH 0/6] iommu: Enable devices \
                      to request non-strict DMA, starting with QCom SD/MMC\"";
        ServiceDevice {
            name: self.name.to_owned(),
            description: "eMMC on a 192 MHz bus, one request after the other".to_owned(),
            source: thread.to_owned(),
            parameters: vec![
                Parameter {
                    name: "bytes_per_second".to_owned(),
                    value: self.bytes_per_second as f64,
                    unit: "B/s".to_owned(),
                    source: "stated in the thread: 300 MB/s at most".to_owned(),
                },
                Parameter {
                    name: "command_ns".to_owned(),
                    value: self.command_ns as f64,
                    unit: "ns".to_owned(),
                    source: "derived: 279.6 MB/s in requests of 128 KiB are 469 us each, 437 us \
                             of it on the bus"
                        .to_owned(),
                },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_gives_the_rates_of_the_thread() {
        let device = StorageDevice::EMMC_2021;
        let rate = 131_072.0 * 1e9 / device.service_ns(131_072) as f64;
        assert!((rate / 279.6e6 - 1.0).abs() < 0.002, "{rate}");
        assert_eq!(device.service_ns(0), 32_000);
        assert!(device.service_ns(u64::MAX) > 32_000);
    }

    #[test]
    fn one_strict_unmap_of_a_page_takes_the_published_sync() {
        let counts = BackendCounts {
            ranges: 1,
            commands_by_address: 1,
            syncs: 1,
            ..BackendCounts::default()
        };
        assert_eq!(hardware_ns(&PROFILE, &counts), 883.0);
    }
}
