//! A line of a fio iolog (`--write_iolog`), version 2 or 3:
//!
//! ```text
//! fio version 2 iolog              fio version 3 iolog
//! /dev/mmcblk0 add                 0 /dev/mmcblk0 add
//! /dev/mmcblk0 open                5 /dev/mmcblk0 open
//! /dev/mmcblk0 read 0 131072       1038 /dev/mmcblk0 read 0 131072
//! /dev/mmcblk0 wait 2000           3120 /dev/mmcblk0 write 4096 4096
//! ```
//!
//! Version 3 has a time stamp in front, in microseconds as fio itself writes and
//! reads them; version 2 has `wait`, in microseconds. `sync` and `datasync` wait
//! for everything before them; `trim` moves no data. All files are taken to lie
//! on one device. The bytes of a request are rounded up to sectors.

use super::{
    Line,
    requests::{Requests, SECTOR},
};
use crate::{
    trace::{
        Reason,
        parse::Counts,
        scan::{Words, decimal},
    },
    workload::Direction,
};

/// What lines before this one said.
#[derive(Debug)]
pub(super) struct Iolog {
    /// The first line, which names the version, has been read.
    begun: bool,
}

impl Iolog {
    pub(super) fn new() -> Self {
        Iolog { begun: false }
    }

    pub(super) fn read(
        &mut self,
        line: &[u8],
        version: u8,
        counts: &mut Counts,
        requests: &mut Requests,
    ) -> Result<Line, Reason> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(Line::Comment);
        }
        let mut words = Words(line);
        let Some(first) = words.next() else {
            return Ok(Line::Comment);
        };
        let mut at_ns = requests.now_ns();
        // The file stands first, or behind the time.
        if version == 3 {
            at_ns = decimal(first)?.saturating_mul(1000);
            words.next().ok_or(Reason::Missing("file"))?;
        }
        let action = words.next().ok_or(Reason::Missing("action"))?;
        let mut number = |name| decimal(words.next().ok_or(Reason::Missing(name))?);
        let direction = match action {
            b"read" => Direction::FromDevice,
            b"write" => Direction::ToDevice,
            b"add" | b"open" | b"close" | b"trim" => {
                counts.framed += 1;
                return Ok(Line::Event);
            }
            b"sync" | b"datasync" => {
                counts.framed += 1;
                requests.wait_for_all();
                return Ok(Line::Event);
            }
            b"wait" if version == 2 => {
                let us = number("microseconds")?;
                counts.framed += 1;
                requests.wait(us.saturating_mul(1000));
                return Ok(Line::Event);
            }
            _ => return Err(Reason::Action),
        };
        let (offset, bytes) = (number("offset")?, number("length")?);
        if bytes == 0 {
            return Err(Reason::SizeMismatch);
        }
        if bytes > Reason::MAX_REQUEST_BYTES {
            return Err(Reason::TooLarge);
        }
        if offset.checked_add(bytes).is_none() {
            return Err(Reason::AddressRange);
        }
        counts.framed += 1;
        let device = requests.device("fio")?;
        requests.arrive(device, direction, bytes.next_multiple_of(SECTOR), at_ns);
        Ok(Line::Event)
    }
}
