//! Reading numbers, lists and `key=value` pairs out of a line of bytes.
//!
//! Everything here is total: any bytes give a value or a reason, never a panic.

use super::damage::Reason;

/// Decimal digits only, all of `text`.
pub(super) fn decimal(text: &[u8]) -> Result<u64, Reason> {
    number(text, 10)
}

/// Hexadecimal, with or without `0x`, all of `text`: the kernel prints both.
pub(super) fn hex(text: &[u8]) -> Result<u64, Reason> {
    number(text.strip_prefix(b"0x").unwrap_or(text), 16)
}

fn number(digits: &[u8], radix: u32) -> Result<u64, Reason> {
    if digits.is_empty() {
        return Err(Reason::NotANumber);
    }
    let mut value: u64 = 0;
    for &byte in digits {
        let digit = (byte as char).to_digit(radix).ok_or(Reason::NotANumber)?;
        value = value
            .checked_mul(u64::from(radix))
            .and_then(|v| v.checked_add(u64::from(digit)))
            .ok_or(Reason::NumberTooLarge)?;
    }
    Ok(value)
}

/// `{0x1000,0x2000}`: the kernel's `__print_array`. Appends to `out` and says
/// how many.
pub(super) fn hex_list(text: &[u8], out: &mut Vec<u64>) -> Result<usize, Reason> {
    let inner = text
        .strip_prefix(b"{")
        .and_then(|t| t.strip_suffix(b"}"))
        .ok_or(Reason::ListNotClosed)?;
    if inner.is_empty() {
        return Ok(0);
    }
    let before = out.len();
    for item in inner.split(|&b| b == b',') {
        out.push(hex(item)?);
    }
    Ok(out.len() - before)
}

/// `done/full`: how many entries of a list are printed, and how many exist.
pub(super) fn part_of(text: &[u8]) -> Result<(u64, u64), Reason> {
    let slash = text
        .iter()
        .position(|&b| b == b'/')
        .ok_or(Reason::NotANumber)?;
    Ok((decimal(&text[..slash])?, decimal(&text[slash + 1..])?))
}

/// The words of a line, split at spaces.
pub(super) struct Words<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&b| b != b' ')?;
        let rest = &self.0[start..];
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        self.0 = &rest[end..];
        Some(&rest[..end])
    }
}

/// Splits `key=value`.
pub(super) fn pair(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = word.iter().position(|&b| b == b'=')?;
    Some((&word[..equals], &word[equals + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_whole_or_not_at_all() {
        assert_eq!(hex(b"0xffff"), Ok(0xffff));
        assert_eq!(hex(b"ffea0000"), Ok(0xffea_0000));
        assert_eq!(decimal(b"131072"), Ok(131_072));
        assert_eq!(decimal(b"12a"), Err(Reason::NotANumber));
        assert_eq!(hex(b""), Err(Reason::NotANumber));
        assert_eq!(hex(b"0x"), Err(Reason::NotANumber));
        assert_eq!(decimal(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(
            decimal(b"18446744073709551616"),
            Err(Reason::NumberTooLarge)
        );
        assert_eq!(hex(b"0x10000000000000000"), Err(Reason::NumberTooLarge));
    }

    #[test]
    fn a_list_cut_in_the_middle_is_not_a_shorter_list() {
        let mut out = Vec::new();
        assert_eq!(hex_list(b"{0x1,0x2}", &mut out), Ok(2));
        assert_eq!(out, [1, 2]);
        assert_eq!(hex_list(b"{0x1,0x2", &mut out), Err(Reason::ListNotClosed));
        assert_eq!(hex_list(b"{0x1,}", &mut out), Err(Reason::NotANumber));
    }
}
