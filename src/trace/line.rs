//! The frame of an ftrace line: which processor, which event, and its fields.
//!
//! ```text
//!     kworker/0:1H-41      [000] d.s..    15.877963: unmap: IOMMU: iova=...
//!     task-pid             [cpu] flags    time       event  fields
//! ```
//!
//! The flags are missing where the `irq-info` option is off and in older
//! `trace-cmd report` output; the time is a whole number for some trace clocks.
//! A task's name may hold spaces, brackets and colons, so the frame is found by
//! its middle: a bracketed number that a time and an event name follow.

use super::scan::{Words, decimal};

/// What stands around an event's fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) cpu: u32,
    /// Without the subsystem, which some tools print (`iommu:map`).
    pub(super) event: &'a [u8],
    pub(super) fields: &'a [u8],
}

/// A line, sorted by its form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Event(Frame<'a>),
    /// Empty, or a comment of the trace's head.
    Comment,
    /// `CPU:1 [LOST 35 EVENTS]`; the number is missing where the kernel does
    /// not know it.
    Lost(Option<u64>),
    Unknown,
}

pub(super) fn classify(line: &[u8]) -> Line<'_> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Some(first) = line.iter().find(|&&b| b != b' ' && b != b'\t') else {
        return Line::Comment;
    };
    if *first == b'#' {
        return Line::Comment;
    }
    if let Some(rest) = line.strip_prefix(b"CPU:") {
        return lost(rest).unwrap_or(Line::Unknown);
    }
    frame(line).map_or(Line::Unknown, Line::Event)
}

fn lost(rest: &[u8]) -> Option<Line<'static>> {
    let mut words = Words(rest);
    decimal(words.next()?).ok()?;
    if words.next()? != b"[LOST" {
        return None;
    }
    let word = words.next()?;
    if word == b"EVENTS]" {
        return Some(Line::Lost(None));
    }
    let count = decimal(word).ok()?;
    (words.next()? == b"EVENTS]").then_some(Line::Lost(Some(count)))
}

fn frame(line: &[u8]) -> Option<Frame<'_>> {
    let mut from = 0;
    loop {
        let open = from + line[from..].iter().position(|&b| b == b'[')?;
        from = open + 1;
        if let Some(frame) = frame_at(&line[from..]) {
            return Some(frame);
        }
    }
}

/// `rest` begins behind the opening bracket.
fn frame_at(rest: &[u8]) -> Option<Frame<'_>> {
    // Four digits reach past the largest NR_CPUS; more is not a processor.
    let close = rest.iter().take(6).position(|&b| b == b']')?;
    let cpu = decimal(&rest[..close]).ok()? as u32;
    let mut words = Words(&rest[close + 1..]);
    let first = words.next()?;
    if !is_time(first) && !is_time(words.next()?) {
        return None;
    }
    let after = words.0;
    let start = after.iter().position(|&b| b != b' ')?;
    let after = &after[start..];
    // The name ends at the colon that a space or the end of the line follows.
    let end = after.iter().position(|&b| b == b' ').unwrap_or(after.len());
    let name = after[..end].strip_suffix(b":")?;
    let event = match name.iter().rposition(|&b| b == b':') {
        Some(colon) => &name[colon + 1..],
        None => name,
    };
    let known = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if event.is_empty() || !event.iter().all(known) {
        return None;
    }
    let fields = after.get(end + 1..).unwrap_or(b"");
    Some(Frame { cpu, event, fields })
}

/// `15.877963:` or `877963:`.
fn is_time(word: &[u8]) -> bool {
    let Some(word) = word.strip_suffix(b":") else {
        return false;
    };
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    match word.iter().position(|&b| b == b'.') {
        Some(point) => digits(&word[..point]) && digits(&word[point + 1..]),
        None => digits(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> (u32, String, String) {
        match classify(line.as_bytes()) {
            Line::Event(f) => (
                f.cpu,
                String::from_utf8_lossy(f.event).into(),
                String::from_utf8_lossy(f.fields).into(),
            ),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn frames_of_every_printer_are_found() {
        let ftrace = "    kworker/0:1H-41      [003] d.s..    15.877963: unmap: IOMMU: iova=1";
        assert_eq!(event(ftrace), (3, "unmap".into(), "IOMMU: iova=1".into()));
        let no_flags = "  dd-205   [001]    31.077980: block_rq_issue:       254,16 WS";
        assert_eq!(event(no_flags).1, "block_rq_issue");
        let tgid = "  dd-205   (    205) [001] .....    31.077980: map: x";
        assert_eq!(event(tgid).0, 1);
        let subsystem = "dd 205 [001] 31.077980: iommu:map: IOMMU: x";
        assert_eq!(event(subsystem).1, "map");
        let counter_clock = "  dd-205   [001] ..... 31077980: map: x";
        assert_eq!(event(counter_clock).1, "map");
        let hostile_task = "  [7] a: b [01]-205   [001] ..... 31.5: map: x";
        assert_eq!(event(hostile_task).0, 1);
        assert_eq!(event("a-1 [000] ..... 1.5: map:").2, "");
    }

    #[test]
    fn other_lines_are_told_apart() {
        assert_eq!(classify(b""), Line::Comment);
        assert_eq!(classify(b"   \r"), Line::Comment);
        assert_eq!(classify(b"# tracer: nop"), Line::Comment);
        assert_eq!(classify(b"##### CPU 1 buffer started ####"), Line::Comment);
        assert_eq!(classify(b"CPU:1 [LOST 35 EVENTS]"), Line::Lost(Some(35)));
        assert_eq!(classify(b"CPU:1 [LOST EVENTS]"), Line::Lost(None));
        assert_eq!(classify(b"CPU:1 is empty"), Line::Unknown);
        assert_eq!(classify(b"cpus=2"), Line::Unknown);
        assert_eq!(classify(b"[[[[[[[[000] 1.1: :"), Line::Unknown);
        assert_eq!(classify(b"[000"), Line::Unknown);
    }
}
