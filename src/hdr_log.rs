//! Interval logs of HdrHistogram (`.hlog`): the latencies of each interval, for
//! the tools that read them (`HistogramLogProcessor`, `HistogramLogAnalyzer`,
//! hdr-plot and their like).
//!
//! Each line is one histogram in the compressed V2 encoding, values in whole
//! nanoseconds, tagged with what was measured (`strict:map`). Times are seconds
//! since the `BaseTime` of the header; `Interval_Max` is in milliseconds, as
//! those tools write it.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

use crate::report::{self, ReportError};

/// Nanoseconds of the unit of `Interval_Max`.
const MAX_UNIT_NS: f64 = 1e6;

/// The lines of one log.
#[derive(Debug)]
pub struct HdrLog {
    base: SystemTime,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    tag: String,
    begin: Duration,
    length: Duration,
    histogram: Histogram<u64>,
}

impl HdrLog {
    /// A log whose times count from now.
    pub fn new() -> Self {
        HdrLog {
            base: SystemTime::now(),
            lines: Vec::new(),
        }
    }

    /// Time since the log began.
    pub fn now(&self) -> Duration {
        self.base.elapsed().unwrap_or_default()
    }

    /// Adds a histogram of nanoseconds. An empty one is left out. What a tag
    /// cannot hold (commas and blanks) becomes `_`.
    pub fn add(&mut self, tag: &str, begin: Duration, length: Duration, ns: Histogram<u64>) {
        if ns.is_empty() {
            return;
        }
        let bad = |c: char| c == ',' || c.is_whitespace() || c.is_control();
        self.lines.push(Line {
            tag: tag.replace(bad, "_"),
            begin,
            length,
            histogram: ns,
        });
    }

    /// The text of the log, lines in order of time.
    ///
    /// # Errors
    ///
    /// The reason, if a histogram cannot be encoded.
    pub fn text(&self) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| line.begin);
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!(
                "[Logged by dmabench {}, values in ns, Interval_Max in ms]",
                env!("CARGO_PKG_VERSION")
            ))
            .with_start_time(self.base)
            .with_base_time(self.base)
            .with_max_value_divisor(MAX_UNIT_NS)
            .begin_log_with(&mut text, &mut serializer)
            .map_err(|error| error.to_string())?;
        for line in lines {
            let tag = Tag::new(&line.tag);
            log.write_histogram(&line.histogram, line.begin, line.length, tag)
                .map_err(|error| error.to_string())?;
        }
        Ok(text)
    }

    /// Writes the log to `file`, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`ReportError`].
    pub fn write(&self, file: &Path) -> Result<(), ReportError> {
        let text = self.text().map_err(|reason| ReportError::Format {
            path: file.to_owned(),
            reason,
        })?;
        report::write_file(file, &text)
    }
}

impl Default for HdrLog {
    fn default() -> Self {
        Self::new()
    }
}

/// A log that runs on several threads add to.
#[derive(Debug, Clone, Default)]
pub struct SharedLog(Arc<Mutex<HdrLog>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, HdrLog> {
        // A panic elsewhere leaves whole lines.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`HdrLog::now`].
    pub fn now(&self) -> Duration {
        self.lock().now()
    }

    /// As [`HdrLog::add`].
    pub fn add(&self, tag: &str, begin: Duration, length: Duration, ns: Histogram<u64>) {
        self.lock().add(tag, begin, length, ns);
    }

    /// As [`HdrLog::write`].
    ///
    /// # Errors
    ///
    /// [`ReportError`].
    pub fn write(&self, file: &Path) -> Result<(), ReportError> {
        self.lock().write(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    };

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        for value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    /// Tag, begin, length, maximum in ms and the histogram of each line.
    fn read(text: &[u8]) -> Vec<(String, Duration, Duration, f64, Histogram<u64>)> {
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(text) {
            let Ok(LogEntry::Interval(line)) = entry else {
                assert!(entry.is_ok(), "{entry:?}");
                continue;
            };
            let packed = base64(line.encoded_histogram());
            found.push((
                line.tag().unwrap().as_str().to_owned(),
                line.start_timestamp(),
                line.duration(),
                line.max(),
                Deserializer::new().deserialize(&mut &packed[..]).unwrap(),
            ));
        }
        found
    }

    fn base64(text: &str) -> Vec<u8> {
        let value = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let mut bytes = Vec::new();
        let (mut bits, mut held) = (0_u32, 0);
        for c in text.bytes().filter(|&c| c != b'=') {
            bits = bits << 6 | u32::from(value(c));
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held) as u8);
            }
        }
        bytes
    }

    #[test]
    fn a_log_reads_back_as_it_was_written() {
        let mut log = HdrLog::new();
        let second = Duration::from_secs(1);
        log.add("lazy:unmap", second, second, histogram([70, 90, 2_000_000]));
        log.add("strict:map", Duration::ZERO, second, histogram(1..=1000));
        log.add("strict:map", 2 * second, second, histogram([]));
        let text = log.text().unwrap();
        let head = String::from_utf8_lossy(&text);
        assert!(head.starts_with("#[Histogram log format version 1.3]\n"));
        assert!(head.contains("\n#[StartTime: ") && head.contains("\n#[BaseTime: "));
        assert!(
            head.contains("\nTag=strict:map,0.000,1.000,0.001,HISTFAAA"),
            "{head}"
        );

        let lines = read(&text);
        assert_eq!(lines.len(), 2, "an empty interval has no line");
        let (tag, begin, length, max, strict) = &lines[0];
        assert_eq!(
            (tag.as_str(), *begin, *length),
            ("strict:map", Duration::ZERO, second)
        );
        assert_eq!((*max, strict.len(), strict.max()), (0.001, 1000, 1000));
        assert_eq!(*strict, histogram(1..=1000));
        let (tag, begin, _, max, lazy) = &lines[1];
        assert_eq!((tag.as_str(), *begin), ("lazy:unmap", second));
        assert!((max - 2.0).abs() < 0.002, "{max}");
        assert_eq!(*lazy, histogram([70, 90, 2_000_000]));
    }

    #[test]
    fn a_tag_cannot_break_a_line() {
        let mut log = HdrLog::new();
        log.add("a,b c\nd", Duration::ZERO, Duration::ZERO, histogram([1]));
        let lines = read(&log.text().unwrap());
        assert_eq!(lines[0].0, "a_b_c_d");
    }
}
