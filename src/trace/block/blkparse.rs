//! A line of `blkparse`, in its default form:
//!
//! ```text
//!   8,0    3       11     0.009507758   697  D  WS 223490 + 8 [kjournald]
//! device cpu sequence seconds.nanoseconds pid action RWBS sector + sectors [process]
//! ```
//!
//! `D` is the issue of a request to the driver, which maps it; `C` its
//! completion, `R` its way back into the queue: it is unmapped. All other actions
//! happen above the driver. RWBS says what the request is: with a `D` in it a
//! discard, with `F` and nothing else a flush, with `N` a command of another
//! kind: none of them has data. A pass-through command has bytes in parentheses
//! in place of the sectors and is left out too. Behind the events stands a
//! summary, whose `Skips:` line says how many the tool lost.

use super::{
    Line,
    requests::{Extent, Requests, SECTOR},
};
use crate::{
    trace::{
        Reason,
        parse::Counts,
        scan::{Words, decimal},
    },
    workload::Direction,
};

/// What stands before an event's fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    device: &'a [u8],
    cpu: u32,
    at_ns: u64,
    action: &'a [u8],
    fields: &'a [u8],
}

/// The frame of a line; `None` if it has none.
pub(super) fn frame(line: &[u8]) -> Option<Frame<'_>> {
    let mut words = Words(line);
    let device = words.next()?;
    let comma = device.iter().position(|&b| b == b',')?;
    decimal(&device[..comma]).ok()?;
    decimal(&device[comma + 1..]).ok()?;
    let cpu = u32::try_from(decimal(words.next()?).ok()?).ok()?;
    decimal(words.next()?).ok()?;
    let time = words.next()?;
    let point = time.iter().position(|&b| b == b'.')?;
    let seconds = decimal(&time[..point]).ok()?;
    // Nine digits, so a number of nanoseconds.
    let fraction = &time[point + 1..];
    let ns = decimal(fraction).ok().filter(|_| fraction.len() == 9)?;
    decimal(words.next()?).ok()?;
    let action = words.next()?;
    if action.len() > 2 || !action.iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    Some(Frame {
        device,
        cpu,
        at_ns: seconds.saturating_mul(1_000_000_000).saturating_add(ns),
        action,
        fields: words.0,
    })
}

pub(super) fn read(
    line: &[u8],
    counts: &mut Counts,
    requests: &mut Requests,
) -> Result<Line, Reason> {
    let Some(frame) = frame(line) else {
        return Ok(other(line));
    };
    counts.framed += 1;
    counts.saw_cpu(frame.cpu);
    let issued = match frame.action {
        b"D" => true,
        b"C" | b"R" => false,
        _ => return Ok(Line::Other),
    };
    let Some((direction, sector, sectors)) = data(frame.fields)? else {
        return Ok(Line::Event);
    };
    let name = String::from_utf8_lossy(frame.device);
    let device = requests.device(&name)?;
    let extent = Extent {
        device,
        sector,
        sectors,
    };
    if issued {
        requests.issue(extent, direction, frame.at_ns);
    } else {
        requests.done(extent, frame.at_ns);
    }
    Ok(Line::Event)
}

/// A line without the frame of an event.
fn other(line: &[u8]) -> Line {
    let mut words = Words(line);
    match words.next() {
        None => Line::Comment,
        Some(b"Skips:") => lost(words).map_or(Line::Other, |lost| match lost {
            0 => Line::Other,
            lost => Line::Lost(lost),
        }),
        Some(_) => Line::Other,
    }
}

/// `Skips: 3 forward (1,217 -   0.5%)`: the number in parentheses.
fn lost(mut words: Words<'_>) -> Option<u64> {
    let number = words.find(|word| word.starts_with(b"("))?;
    let digits: Vec<u8> = (number[1..].iter().copied())
        .filter(|&b| b != b',')
        .collect();
    decimal(&digits).ok()
}

/// What a request moves; `None` if it has no data.
fn data(fields: &[u8]) -> Result<Option<(Direction, u64, u64)>, Reason> {
    let mut words = Words(fields);
    let rwbs = words.next().ok_or(Reason::Missing("RWBS"))?;
    let has = |letter| rwbs.contains(&letter);
    if !rwbs.iter().all(u8::is_ascii_uppercase) {
        return Err(Reason::Direction);
    }
    let direction = if has(b'W') {
        Direction::ToDevice
    } else if has(b'R') {
        Direction::FromDevice
    } else if has(b'D') || has(b'F') || has(b'N') {
        return Ok(None);
    } else {
        return Err(Reason::Direction);
    };
    let first = words.next().ok_or(Reason::Missing("sector"))?;
    let closed = fields.trim_ascii_end().ends_with(b"]");
    if has(b'D') || first.starts_with(b"(") || first.starts_with(b"[") {
        return Ok(None);
    }
    let sector = decimal(first)?;
    match words.next().ok_or(Reason::Missing("+"))? {
        b"+" => {}
        // Bytes of a pass-through command, and the command behind them.
        command if command.starts_with(b"(") && closed => return Ok(None),
        _ => return Err(Reason::Missing("+")),
    }
    let sectors = decimal(words.next().ok_or(Reason::Missing("sectors"))?)?;
    // Without it the number of sectors may have been cut too.
    if !closed {
        return Err(Reason::Missing("[process]"));
    }
    if sectors == 0 {
        return Ok(None);
    }
    if sectors > Reason::MAX_REQUEST_BYTES / SECTOR {
        return Err(Reason::TooLarge);
    }
    if sector.checked_add(sectors).is_none() {
        return Err(Reason::AddressRange);
    }
    Ok(Some((direction, sector, sectors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_from_other_lines() {
        let line = b"  8,0    3       11     0.009507758   697  D   W 223490 + 8 [kjournald]";
        let frame = frame(line).unwrap();
        assert_eq!(
            (frame.device, frame.cpu, frame.action),
            (&b"8,0"[..], 3, &b"D"[..])
        );
        assert_eq!(frame.at_ns, 9_507_758);
        for other in [
            &b""[..],
            b"CPU0 (8,0):",
            b" Reads Queued:           0,        0KiB",
            b"  dd-205   [001] .....    31.5: map: IOMMU: iova=0x1000",
            b"  8,0    3       11     0.0095   697  D   W 1 + 8 [a]",
            b"  8,0    3       11     0.009507758   697  123   W 1 + 8 [a]",
            b"  8;0    3       11     0.009507758   697  D   W 1 + 8 [a]",
        ] {
            assert_eq!(super::frame(other), None);
        }
    }

    #[test]
    fn what_has_no_data_is_told_from_what_is_cut() {
        let read = |text: &str| data(text.as_bytes());
        let write = Some((Direction::ToDevice, 223_490, 8));
        for rwbs in ["W", "WS", "WSM", "FWFS", "WFS"] {
            assert_eq!(read(&format!("{rwbs} 223490 + 8 [a b]")), Ok(write));
        }
        assert_eq!(
            read("RA 0 + 1 (   12345) [0]"),
            Ok(Some((Direction::FromDevice, 0, 1)))
        );
        for none in [
            "D 8 + 8 [fstrim]",
            "DS 8 + 8 [fstrim]",
            "FN [kworker]",
            "FF 0 + 0 [a]",
            "N 0 [a]",
            "W 0 + 0 [a]",
            "R 36 (12 00 00 00 24 00 ..) [scsi_id]",
            "R (12 00 ..) [0]",
            "R [0]",
        ] {
            assert_eq!(read(none), Ok(None), "{none}");
        }
        for (cut, reason) in [
            ("", Reason::Missing("RWBS")),
            ("W", Reason::Missing("sector")),
            ("W 2234", Reason::Missing("+")),
            ("W 223490 +", Reason::Missing("sectors")),
            ("W 223490 + 8", Reason::Missing("[process]")),
            ("W 223490 + 8 [kjour", Reason::Missing("[process]")),
            ("W 223490 8 [a]", Reason::Missing("+")),
            ("W 22x + 8 [a]", Reason::NotANumber),
            ("W 1 + 99999999999999999999 [a]", Reason::NumberTooLarge),
            ("W 1 + 4194304 [a]", Reason::TooLarge),
            ("W 18446744073709551615 + 1 [a]", Reason::AddressRange),
            ("w 1 + 8 [a]", Reason::Direction),
            ("S 1 + 8 [a]", Reason::Direction),
        ] {
            assert_eq!(read(cut), Err(reason), "{cut:?}");
        }
    }

    #[test]
    fn the_summary_says_what_was_lost() {
        let skips = |text: &str| match other(text.as_bytes()) {
            Line::Lost(lost) => Some(lost),
            _ => None,
        };
        assert_eq!(skips("Skips: 3 forward (1,217 -   0.5%)"), Some(1217));
        assert_eq!(skips("Skips: 0 forward (0 -   0.0%)"), None);
        assert_eq!(skips("Skips: what"), None);
    }
}
