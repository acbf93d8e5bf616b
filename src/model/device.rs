//! The storage device: how long it works on one request.

use crate::report::{Parameter, ServiceDevice};

/// A storage device.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageDevice {
    /// Name in the report.
    pub name: String,
    /// What it stands for, in one sentence.
    pub description: String,
    /// Where its figures come from.
    pub source: String,
    /// Time of one request besides the transfer, in nanoseconds.
    pub command_ns: u64,
    /// Transfer rate, in bytes per second.
    pub bytes_per_second: u64,
    /// Requests between their start and their completion, the caller's part
    /// included. With 1 the device idles while the host completes a request and
    /// starts the next.
    pub queue_depth: u32,
    /// Table walks that the device waits for, per page of a transfer. 0 where
    /// walks hide behind the transfer or `command_ns` contains them.
    pub walks_per_page: f64,
    /// As [`HardwareProfile::field_sources`](super::HardwareProfile::field_sources).
    pub field_sources: Vec<(String, String)>,
}

impl StorageDevice {
    /// The eMMC of the board of the 2021 thread. The thread gives the bus (192
    /// MHz, at most 300 MB/s) and 279.6 MB/s for lazy `dd`, whose requests are
    /// 128 KiB: 469 us each, 437 us of it on the bus, so 32 us are left for the
    /// command and the host's part of it.
    pub fn emmc_2021() -> StorageDevice {
        let sources = [
            (
                "bytes_per_second",
                "stated in the thread: the card's datasheet gives 300 MB/s",
            ),
            (
                "command_ns",
                "derived: 279.6 MB/s in requests of 128 KiB are 469 us each, 437 us of it on the \
                 bus",
            ),
            (
                "queue_depth",
                "derived: strict costs dd 153 us per request, and its rate falls by just that, so \
                 the bus idles meanwhile",
            ),
            (
                "walks_per_page",
                "contained in command_ns, which was measured with translation",
            ),
        ];
        StorageDevice {
            name: "emmc-2021".to_owned(),
            description: "eMMC on a 192 MHz bus, one request after the other".to_owned(),
            source:
                "linux-mmc and iommu lists, 2021-06-21, \"[PATCH 0/6] iommu: Enable devices to \
                     request non-strict DMA, starting with QCom SD/MMC\""
                    .to_owned(),
            command_ns: 32_000,
            bytes_per_second: 300_000_000,
            queue_depth: 1,
            walks_per_page: 0.0,
            field_sources: sources
                .map(|(name, source)| (name.to_owned(), source.to_owned()))
                .to_vec(),
        }
    }

    /// Virtual time that a request of `bytes` takes.
    pub fn service_ns(&self, bytes: u64) -> u64 {
        let transfer = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        (u64::try_from(transfer).unwrap_or(u64::MAX)).saturating_add(self.command_ns)
    }

    /// Time of the device for `requests` requests of `bytes` bytes altogether,
    /// per request. Nanoseconds; 0 for no requests.
    pub fn mean_service_ns(&self, requests: u64, bytes: u64) -> f64 {
        if requests == 0 {
            return 0.0;
        }
        self.command_ns as f64
            + bytes as f64 / requests as f64 * 1e9 / self.bytes_per_second.max(1) as f64
    }

    /// As the report prints it.
    pub fn for_report(&self) -> ServiceDevice {
        let parameter = |name: &str, value: f64, unit: &str| Parameter {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            source: (self.field_sources.iter())
                .find(|(field, _)| field == name)
                .map_or(&self.source, |(_, source)| source)
                .clone(),
        };
        ServiceDevice {
            name: self.name.clone(),
            description: self.description.clone(),
            source: self.source.clone(),
            parameters: vec![
                parameter("bytes_per_second", self.bytes_per_second as f64, "B/s"),
                parameter("command_ns", self.command_ns as f64, "ns"),
                parameter("queue_depth", f64::from(self.queue_depth), "requests"),
                parameter("walks_per_page", self.walks_per_page, "walks"),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_gives_the_rates_of_the_thread() {
        let device = StorageDevice::emmc_2021();
        let rate = 131_072.0 * 1e9 / device.service_ns(131_072) as f64;
        assert!((rate / 279.6e6 - 1.0).abs() < 0.002, "{rate}");
        assert_eq!(device.service_ns(0), 32_000);
        assert!(device.service_ns(u64::MAX) > 32_000);
        let mean = device.mean_service_ns(10, 1_310_720);
        assert!((mean - device.service_ns(131_072) as f64).abs() < 1.0);
        assert_eq!(device.mean_service_ns(0, 0), 0.0);
    }
}
