//! Block traces to map and unmap calls: what a block layer asked of a device,
//! as an SD/MMC host and its driver would have mapped it.
//!
//! Two forms: the text of `blkparse` (`blkparse.rs`), which says when each request
//! was issued and completed, and fio's iologs (`iolog.rs`), which say what was
//! asked and when, so that a host and a device have to be assumed
//! (`workload/queue.rs`). Neither says where the data lay in memory: it is taken
//! to lie in pages anywhere in 1 GiB, the same ones in every run. Requests beyond
//! the host's limits are split as the block layer does ([`HostLimits`]).
//!
//! Lines go straight into the workload, so that only requests stay in memory.

mod blkparse;
mod iolog;
mod memory;
mod requests;

use crate::{
    report::{ParseStats, Source},
    workload::{HostLimits, Workload},
};

use super::{
    damage::{Damage, Reason},
    parse::{Counts, LINE_MAX, lines_of},
};
use iolog::Iolog;
use requests::Requests;

/// The form of a block trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Blkparse,
    /// The version of an iolog: 2 or 3.
    Iolog(u8),
}

/// How an iolog begins; its version follows.
const IOLOG_HEAD: &[u8] = b"fio version ";

/// Tells a line of `blkparse`, from its content.
pub(super) fn is_blkparse(line: &[u8]) -> bool {
    blkparse::frame(line).is_some()
}

/// Tells an iolog from its first line: its form, or `Err` for one of a version
/// that is not read.
pub(super) fn iolog_form(head: &[u8]) -> Option<Result<Form, ()>> {
    let version = head.strip_prefix(IOLOG_HEAD)?;
    Some(match version {
        [b'2', b' ', ..] => Ok(Form::Iolog(2)),
        [b'3', b' ', ..] => Ok(Form::Iolog(3)),
        _ => Err(()),
    })
}

/// What was read so far.
#[derive(Debug)]
pub(super) struct BlockLog {
    form: Form,
    pub(super) counts: Counts,
    requests: Requests,
    iolog: Iolog,
}

/// What a line was.
enum Line {
    /// Of use.
    Event,
    /// Of a known form and of no use; or none at all.
    Other,
    /// Blank, or part of a head.
    Comment,
    /// The writer says that it lost so many.
    Lost(u64),
}

impl BlockLog {
    pub(super) fn new(form: Form) -> Self {
        BlockLog {
            form,
            counts: Counts::default(),
            requests: Requests::new(),
            iolog: Iolog::new(),
        }
    }

    /// Appends the lines of `bytes`, which begin and end at line boundaries.
    pub(super) fn read_lines(&mut self, bytes: &[u8]) {
        for line in lines_of(bytes) {
            self.counts.lines += 1;
            match self.read_line(line) {
                Ok(Line::Event) => self.counts.events += 1,
                Ok(Line::Other) => self.counts.unknown += 1,
                Ok(Line::Comment) => {}
                Ok(Line::Lost(events)) => {
                    self.counts.lost_events = self.counts.lost_events.saturating_add(events);
                }
                Err(reason) => {
                    let line = self.counts.lines;
                    self.counts.note_damage(Damage { line, reason });
                }
            }
        }
    }

    fn read_line(&mut self, line: &[u8]) -> Result<Line, Reason> {
        if line.len() > LINE_MAX {
            return Err(Reason::LineTooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.form {
            Form::Blkparse => blkparse::read(line, &mut self.counts, &mut self.requests),
            Form::Iolog(version) => {
                (self.iolog).read(line, version, &mut self.counts, &mut self.requests)
            }
        }
    }

    /// What is missing in a trace that has lines but makes no requests.
    pub(super) fn missing(&self) -> Option<&'static str> {
        if self.requests.is_empty() {
            Some(match self.form {
                Form::Blkparse => "requests with data that were issued to a device (action D)",
                Form::Iolog(_) => "reads or writes",
            })
        } else if self.form == Form::Blkparse && self.requests.completed() == 0 {
            Some("completions (action C)")
        } else {
            None
        }
    }

    /// For the report.
    pub(super) fn form_name(&self) -> &'static str {
        match self.form {
            Form::Blkparse => "blkparse",
            Form::Iolog(2) => "fio iolog v2",
            Form::Iolog(_) => "fio iolog v3",
        }
    }

    pub(super) fn into_workload(
        self,
        name: String,
        source: Source,
        damaged_examples: Vec<String>,
    ) -> Workload {
        let what = match self.form {
            Form::Blkparse => "block requests of a blkparse text",
            Form::Iolog(_) => "reads and writes of a fio iolog, two mapped at once",
        };
        let limits = HostLimits::SDHCI;
        let description = format!(
            "{what}, as an SD host maps them: at most {} KiB and {} segments; memory made up",
            limits.request_bytes >> 10,
            limits.segments
        );
        let counts = self.counts;
        let made = self.requests.finish();
        let parse = ParseStats {
            lines: counts.lines,
            events: counts.events,
            unknown_lines: counts.unknown,
            damaged_lines: counts.damaged,
            damaged_examples,
            lost_events: counts.lost_events,
            truncated_lists: 0,
            unmatched_unmaps: made.unmatched,
            left_mapped: made.left_mapped,
            devices: made.devices.clone(),
            cpus: counts.cpus.len() as u64,
        };
        (made.builder).finish(name, description, source, Some(parse), made.devices)
    }
}
