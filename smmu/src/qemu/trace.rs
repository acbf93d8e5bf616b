//! What QEMU itself says its SMMU did.

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use std::{fs::File, os::unix::fs::FileExt};

use dmabench_platform::sync::Mutex;

/// A fault, as QEMU's trace names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedEvent {
    /// The name, such as `F_TRANSLATION`.
    pub name: String,
    /// The stream.
    pub sid: u32,
}

/// Lines of QEMU's trace, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Commands that the SMMU took from its queue, by name (`CMD_SYNC`, ...).
    pub commands: BTreeMap<String, u64>,
    /// Events that it recorded.
    pub events: Vec<TracedEvent>,
}

impl TraceCounts {
    /// Commands of that name.
    pub fn command(&self, name: &str) -> u64 {
        self.commands.get(name).copied().unwrap_or(0)
    }

    /// Invalidations of translations, of every kind.
    pub fn invalidations(&self) -> u64 {
        (self.commands.iter())
            .filter(|(name, _)| name.contains("TLBI"))
            .map(|(_, count)| count)
            .sum()
    }

    /// Commands of every kind.
    pub fn all_commands(&self) -> u64 {
        self.commands.values().sum()
    }

    fn add(&mut self, line: &str) {
        if let Some((_, name)) = line.split_once("smmuv3_cmdq_opcode <--- ") {
            *self.commands.entry(name.trim().into()).or_insert(0) += 1;
        } else if line.contains("smmuv3_record_event ") || line.contains("smmuv3_propagate_event ")
        {
            self.events.extend(event(line));
        }
    }
}

/// The number behind `key`.
fn number(line: &str, key: &str) -> Option<u64> {
    let (_, rest) = line.split_once(key)?;
    let word = rest.split([' ', ',']).next()?;
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

/// "smmuv3_record_event NAME sid=0x20": the name is the word before the stream.
fn event(line: &str) -> Option<TracedEvent> {
    let sid = number(line, "sid=")?;
    let (before, _) = line.split_once(" sid=")?;
    Some(TracedEvent {
        name: before.split_whitespace().last()?.into(),
        sid: sid as u32,
    })
}

/// The trace file, read piece by piece.
#[derive(Debug)]
pub(super) struct Trace {
    file: File,
    at: Mutex<u64>,
}

impl Trace {
    pub(super) fn new(file: File) -> Self {
        Trace {
            file,
            at: Mutex::new(0),
        }
    }

    /// Counts the whole lines since the last call.
    pub(super) fn take(&self) -> TraceCounts {
        let mut counts = TraceCounts::default();
        let mut at = self.at.lock();
        let len = self.file.metadata().map_or(0, |m| m.len());
        let mut bytes = alloc::vec![0; len.saturating_sub(*at).min(1 << 20) as usize];
        while !bytes.is_empty() {
            let Ok(n) = self.file.read_at(&mut bytes, *at) else {
                break;
            };
            let Some(end) = bytes[..n].iter().rposition(|b| *b == b'\n') else {
                break;
            };
            for line in String::from_utf8_lossy(&bytes[..=end]).lines() {
                counts.add(line);
            }
            *at += end as u64 + 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_trace_are_counted_once_and_whole() {
        let file = super::super::shared::anonymous_file("a trace", 0).unwrap();
        let trace = Trace::new(file.try_clone().unwrap());
        let first = "smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NH_VA\n\
                     smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\nsmmuv3_record_ev";
        file.write_all_at(first.as_bytes(), 0).unwrap();
        let counts = trace.take();
        assert_eq!(counts.command("SMMU_CMD_SYNC"), 1);
        assert_eq!((counts.invalidations(), counts.all_commands()), (1, 2));
        assert_eq!(counts.events, []);
        let rest = "ent F_TRANSLATION sid=0x20\nnoise\n";
        file.write_all_at(rest.as_bytes(), first.len() as u64)
            .unwrap();
        let counts = trace.take();
        let event = TracedEvent {
            name: "F_TRANSLATION".into(),
            sid: 0x20,
        };
        assert_eq!(counts.events, [event]);
        assert_eq!(trace.take(), TraceCounts::default());
    }
}
