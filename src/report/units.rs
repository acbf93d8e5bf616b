//! Figures in the form people read: three significant digits, a unit, thousands apart.

/// A whole number with commas between thousands.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things with a regular plural.
pub(crate) fn plural(number: u64, what: &str) -> String {
    format!(
        "{} {what}{}",
        count(number),
        if number == 1 { "" } else { "s" }
    )
}

/// A number with about three significant digits and no unit.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 99.95 {
        let whole = count(size.round() as u64);
        if value < 0.0 {
            format!("-{whole}")
        } else {
            whole
        }
    } else if size >= 9.995 {
        trim(format!("{value:.1}"))
    } else if size >= 0.9995 {
        trim(format!("{value:.2}"))
    } else if size >= 0.0995 {
        trim(format!("{value:.3}"))
    } else if size >= 0.000_05 {
        trim(format!("{value:.4}"))
    } else {
        format!("{value:.0e}")
    }
}

/// Drops zeros that say nothing behind the point.
fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A time given in nanoseconds, in the unit that suits it.
pub(super) fn time(ns: f64) -> String {
    let size = ns.abs();
    if !size.is_finite() {
        "-".to_owned()
    } else if size == 0.0 {
        "0".to_owned()
    } else if size < 9_999.5 {
        format!("{} ns", number(ns))
    } else if size < 999_500.0 {
        format!("{} µs", number(ns / 1e3))
    } else if size < 999_500_000.0 {
        format!("{} ms", number(ns / 1e6))
    } else {
        format!("{} s", number(ns / 1e9))
    }
}

/// As [`time`], in the shortest form, for the ticks of an axis: `10 µs` for 10,000 ns.
pub(super) fn time_tick(ns: f64) -> String {
    if (1e3..1e6).contains(&ns) {
        format!("{} µs", number(ns / 1e3))
    } else {
        time(ns)
    }
}

/// A number of bytes in binary units.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(scaled), UNITS[unit])
}

/// A ratio as a signed percentage (`0.18` is `+18 %`).
pub(super) fn signed_percent(ratio: f64) -> String {
    if !ratio.is_finite() {
        return "-".to_owned();
    }
    let percent = ratio * 100.0;
    if percent.abs() < 0.5 {
        "0 %".to_owned()
    } else if percent < 0.0 {
        format!("-{} %", count(percent.abs().round() as u64))
    } else {
        format!("+{} %", count(percent.round() as u64))
    }
}

/// A calendar date and time in UTC for a number of seconds since 1970.
///
/// Days to date by the civil-calendar arithmetic of 400-year eras that begin in March, so that
/// the leap day is the last of its year.
pub(super) fn utc(unix_s: u64) -> String {
    let days = unix_s / 86_400;
    let (hour, minute) = (unix_s % 86_400 / 3_600, unix_s % 3_600 / 60);
    // Days since 0000-03-01.
    let since_march = days + 719_468;
    let (era, day_of_era) = (since_march / 146_097, since_march % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn one_thing_has_no_plural() {
        assert_eq!(plural(0, "buffer"), "0 buffers");
        assert_eq!(plural(1, "buffer"), "1 buffer");
        assert_eq!(plural(1_234, "buffer"), "1,234 buffers");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(0.003_921_6), "0.0039");
        assert_eq!(number(0.5176), "0.518");
        assert_eq!(number(2.0), "2");
        assert_eq!(number(9.999), "10");
        assert_eq!(number(41.26), "41.3");
        assert_eq!(number(1_956.4), "1,956");
        assert_eq!(number(-123.4), "-123");
        assert_eq!(number(f64::NAN), "-");
        assert_eq!(number(f64::INFINITY), "-");
    }

    #[test]
    fn times_choose_their_unit() {
        assert_eq!(time(0.0), "0");
        assert_eq!(time(12.5), "12.5 ns");
        assert_eq!(time(9_999.0), "9,999 ns");
        assert_eq!(time(12_340.0), "12.3 µs");
        assert_eq!(time(9_710_000.0), "9.71 ms");
        assert_eq!(time(1.5e9), "1.5 s");
        assert_eq!(time(f64::NAN), "-");
    }

    #[test]
    fn sizes_use_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(1023 * 1024 + 1023), "1 MiB");
        assert_eq!(bytes(17_301_504), "16.5 MiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }

    #[test]
    fn ratios_become_percentages() {
        assert_eq!(signed_percent(0.184), "+18 %");
        assert_eq!(signed_percent(-0.12), "-12 %");
        assert_eq!(signed_percent(0.001), "0 %");
        assert_eq!(signed_percent(25.5), "+2,550 %");
        assert_eq!(signed_percent(f64::NAN), "-");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00 UTC");
        assert_eq!(utc(1_735_689_540), "2024-12-31 23:59 UTC");
    }
}
