//! `dd` on the board of the 2021 thread, strict and lazy, at both clocks.

use super::{Role, Row, Table};
use crate::model::{RequestTime, StorageDevice, Waits, modelled_mb_per_s};

const BYTES: f64 = 131_072.0;
/// The device idles between two requests of `dd`.
const DEPTH: u32 = 1;

const SOURCE: &str = "Douglas Anderson, linux-mmc and iommu lists, 2021-06-21, \"[PATCH 6/6] mmc: \
                      sdhci-msm: Request non-strict IOMMU mode\", dd from the eMMC of an \
                      sc7180-trogdor-lazor, bs=4M (that requests are 128 KiB follows from the page \
                      cache's readahead and is not stated)";

const GOVERNOR: &str = "The governor let the processors run slower in strict mode than in lazy: the \
                        published fix of its accounting of I/O waits, which changes no IOMMU work, \
                        brings strict from 210.9 to 258.4 MB/s. This model has one clock for both \
                        modes and says what the IOMMU alone costs at the clock that lazy ran at.";

/// Nanoseconds of a request at that rate.
fn interval_ns(mb_per_s: f64) -> f64 {
    BYTES * 1e3 / mb_per_s
}

pub(super) fn table() -> Table {
    // Used.
    let (lazy_pinned, strict_pinned, lazy_governed) = (288.1, 284.3, 279.6);

    let bus_ns = BYTES * 1e9 / StorageDevice::emmc_2021().bytes_per_second as f64;
    // At the top clock: what the host and the card take besides the transfer, and
    // what the invalidation adds.
    let host_ns = interval_ns(lazy_pinned) - bus_ns;
    let strict_ns = interval_ns(strict_pinned) - interval_ns(lazy_pinned);
    // How much longer the same takes at the governor's clock.
    let clock = (interval_ns(lazy_governed) - bus_ns) / host_ns;
    let rate = |factor: f64, strict: bool| {
        let request = RequestTime {
            bytes: BYTES,
            device_ns: bus_ns,
            cpu_ns: host_ns * factor,
            issue_ns: if strict { strict_ns * factor } else { 0.0 },
            iommu_ns: 0.0,
        };
        modelled_mb_per_s(&request, Waits::BeforeNext, DEPTH)
    };
    use Role::{Calibrates, Predicted};
    Table {
        title: "dd on sc7180, strict and lazy, at two clocks",
        source: SOURCE,
        model: format!(
            "the card's datasheet gives 300 MB/s, so a transfer takes {:.0} us. From three \
             rows: {:.1} us for host and card at the top clock, {:.2} us more in strict mode, and \
             everything but the transfer {clock:.2} times as long at the governor's clock. At the \
             top clock all rates lie within 2 % of each other, so there a hit says little.",
            bus_ns / 1e3,
            host_ns / 1e3,
            strict_ns / 1e3,
        ),
        unit: "MB/s",
        rows: vec![
            Row::new("lazy, top clock", lazy_pinned, rate(1.0, false), Calibrates),
            Row::new(
                "strict, top clock",
                strict_pinned,
                rate(1.0, true),
                Calibrates,
            ),
            Row::new(
                "lazy, governor",
                lazy_governed,
                rate(clock, false),
                Calibrates,
            ),
            Row::new("strict, governor", 210.9, rate(clock, true), Predicted)
                .because(Some(GOVERNOR)),
            Row::new(
                "strict, governor with the I/O-wait fix",
                258.4,
                rate(clock, true),
                Predicted,
            ),
            Row::new(
                "strict, top clock, with the I/O-wait fix",
                287.8,
                rate(1.0, true),
                Predicted,
            ),
            Row::new(
                "strict, governor, with the TLBIVA patches",
                214.7,
                rate(clock, true),
                Predicted,
            )
            .because(Some(GOVERNOR)),
            Row::new(
                "strict, top clock, with the TLBIVA patches",
                285.7,
                rate(1.0, true),
                Predicted,
            ),
            Row::new(
                "lazy, governor with the I/O-wait fix",
                280.2,
                rate(clock, false),
                Predicted,
            ),
            Row::new(
                "lazy, top clock, with the I/O-wait fix (thermal throttling suspected by its author)",
                279.0,
                rate(1.0, false),
                Predicted,
            ),
        ],
    }
}
