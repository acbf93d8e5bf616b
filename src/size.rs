//! Sizes and weights, as the options of several commands spell them.

/// The bytes of `512`, `4k` or `1M`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 1 << 10),
        b'M' | b'm' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `SIZE` or `SIZE:WEIGHT` in its two parts.
pub(crate) fn split_weight(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((text, "1"))
}

/// How often a size comes, against the others: 1 to 1,000,000.
pub(crate) fn weight(text: &str) -> Option<u32> {
    (text.parse().ok()).filter(|weight| (1..=1_000_000).contains(weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_and_nothing_overflows() {
        assert_eq!(bytes("512"), Some(512));
        assert_eq!((bytes("4k"), bytes("4K")), (Some(4096), Some(4096)));
        assert_eq!(bytes("2M"), Some(2 << 20));
        for bad in ["", "k", "4g", "-1", "4 k", "18446744073709551615k", "µ"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!(split_weight("4k"), ("4k", "1"));
        assert_eq!(split_weight("4k:70"), ("4k", "70"));
        assert_eq!((weight("0"), weight("1000001")), (None, None));
        assert_eq!(weight("70"), Some(70));
    }
}
