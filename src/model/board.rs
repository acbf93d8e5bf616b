//! A user's own board: a profile as a TOML file.

use std::{fs, path::Path};

use dmabench_flushq::{HardwareCosts, RangeCommands};
use serde::Deserialize;

use super::{HardwareProfile, MemoryCosts, StorageDevice, named};

/// Linux gives a sync up after a second; nothing single takes longer.
const NS_MAX: f64 = 1e9;
/// No processor is a thousand times as fast as another one in use.
const FACTOR_MAX: f64 = 1000.0;
/// 10 TB/s.
const MB_PER_S_MAX: f64 = 1e7;
/// What an NVMe queue may hold.
const DEPTH_MAX: u32 = 65_536;
/// Translations of one page that a device could wait for.
const WALKS_MAX: f64 = 64.0;

/// Why a board cannot be used. Displays in one line, with what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BoardError {
    /// Neither a built-in profile nor a file.
    #[error("{name} is neither a file nor a profile; there are: {}", known().join(", "))]
    NoSuch {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// Not TOML, or a field that is not known, of another type, or missing.
    #[error("{0}; `dmabench profiles` shows a whole file")]
    Syntax(String),
    /// A figure that cannot be.
    #[error("{field} is {value}, but {reason}")]
    Value {
        /// Section and name of the field.
        field: &'static str,
        /// What stands there.
        value: f64,
        /// Why it cannot be.
        reason: String,
    },
    /// A name that reports could not show.
    #[error(
        "name is {0:?}, but it has to be 1 to 60 letters, digits, dots, hyphens or underscores"
    )]
    Name(String),
    /// No invalidation takes any time.
    #[error(
        "issue_ns, doorbell_ns, command_ns and sync_ns are all 0: nothing would be modelled; \
             give at least sync_ns"
    )]
    NothingTakesTime,
}

fn known() -> Vec<String> {
    super::built_in().into_iter().map(|p| p.name).collect()
}

/// The message of a TOML error without the picture of the place.
pub(super) fn one_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.contains('|') && !line.chars().all(|c| c == '^' || c == ' ')
    });
    let first = lines.next().unwrap_or("not TOML").to_owned();
    lines.fold(first, |all, line| format!("{all}: {line}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    description: String,
    source: String,
    invalidation: Invalidation,
    #[serde(default)]
    memory: Memory,
    #[serde(default)]
    processor: Processor,
    device: Option<DeviceSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalidation {
    #[serde(default)]
    issue_ns: f64,
    #[serde(default)]
    doorbell_ns: f64,
    command_ns: f64,
    sync_ns: f64,
    range_invalidation: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Memory {
    #[serde(default)]
    table_line_ns: f64,
    #[serde(default)]
    buffer_page_ns: f64,
    walk_base_ns: Option<f64>,
    walk_read_ns: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Processor {
    cpu_time_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceSection {
    name: String,
    command_ns: f64,
    bus_mb_per_s: f64,
    queue_depth: u32,
    #[serde(default)]
    walks_per_page: f64,
}

fn refuse(field: &'static str, value: f64, reason: &str) -> BoardError {
    BoardError::Value {
        field,
        value,
        reason: reason.to_owned(),
    }
}

fn ns(field: &'static str, value: f64) -> Result<u64, BoardError> {
    if value.is_nan() {
        return Err(refuse(field, value, "that is no number"));
    }
    if value < 0.0 {
        return Err(refuse(field, value, "time cannot be negative"));
    }
    if value > NS_MAX {
        return Err(refuse(
            field,
            value,
            "that is more than a second; it is in nanoseconds",
        ));
    }
    if value > 0.0 && value < 1.0 {
        return Err(refuse(
            field,
            value,
            "that is less than a nanosecond; it is in nanoseconds, not in seconds",
        ));
    }
    Ok(value.round() as u64)
}

fn positive(field: &'static str, value: f64, max: f64) -> Result<f64, BoardError> {
    if value.is_nan() {
        return Err(refuse(field, value, "that is no number"));
    }
    if value <= 0.0 {
        return Err(refuse(field, value, "it has to be positive"));
    }
    if value > max || value < 1.0 / max {
        let reason = format!("it has to lie between {} and {max}", 1.0 / max);
        return Err(refuse(field, value, &reason));
    }
    Ok(value)
}

fn check_name(name: &str) -> Result<(), BoardError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    if name.is_empty() || name.len() > 60 || !name.chars().all(plain) {
        return Err(BoardError::Name(name.chars().take(80).collect()));
    }
    Ok(())
}

impl HardwareProfile {
    /// A built-in profile by name, or a board from a file.
    ///
    /// # Errors
    ///
    /// [`BoardError`].
    pub fn find(name_or_file: &str) -> Result<Self, BoardError> {
        if let Some(profile) = named(name_or_file) {
            return Ok(profile);
        }
        let path = Path::new(name_or_file);
        if !path.exists() && path.extension().is_none_or(|ending| ending != "toml") {
            return Err(BoardError::NoSuch {
                name: name_or_file.to_owned(),
            });
        }
        let text = fs::read_to_string(path).map_err(|error| BoardError::Unreadable {
            path: name_or_file.to_owned(),
            reason: error.to_string(),
        })?;
        Self::from_toml(&text)
    }

    /// A board from the text of its file.
    ///
    /// # Errors
    ///
    /// [`BoardError`]: everything that could not be a machine.
    pub fn from_toml(text: &str) -> Result<Self, BoardError> {
        let file: File = toml::from_str(text)
            .map_err(|error| BoardError::Syntax(one_line(&error.to_string())))?;
        check_name(&file.name)?;
        let given = &file.invalidation;
        let costs = HardwareCosts {
            issue_ns: ns("invalidation.issue_ns", given.issue_ns)?,
            doorbell_ns: ns("invalidation.doorbell_ns", given.doorbell_ns)?,
            command_ns: ns("invalidation.command_ns", given.command_ns)?,
            sync_ns: ns("invalidation.sync_ns", given.sync_ns)?,
            range_commands: if given.range_invalidation {
                RangeCommands::Supported
            } else {
                RangeCommands::Absent
            },
        };
        if costs.flush_ns(1) == 0 {
            return Err(BoardError::NothingTakesTime);
        }
        let walk = |field, value: Option<f64>, default| value.map_or(Ok(default), |v| ns(field, v));
        let default = MemoryCosts::COHERENT;
        let memory = MemoryCosts {
            table_line_ns: ns("memory.table_line_ns", file.memory.table_line_ns)?,
            buffer_page_ns: ns("memory.buffer_page_ns", file.memory.buffer_page_ns)?,
            walk_base_ns: walk(
                "memory.walk_base_ns",
                file.memory.walk_base_ns,
                default.walk_base_ns,
            )?,
            walk_read_ns: walk(
                "memory.walk_read_ns",
                file.memory.walk_read_ns,
                default.walk_read_ns,
            )?,
        };
        let mut field_sources = Vec::new();
        for (name, given) in [
            ("walk_base_ns", file.memory.walk_base_ns),
            ("walk_read_ns", file.memory.walk_read_ns),
        ] {
            if given.is_none() {
                field_sources.push((name.to_owned(), MemoryCosts::WALK_SOURCE.to_owned()));
            }
        }
        let cpu_time_factor = match file.processor.cpu_time_factor {
            Some(factor) => positive("processor.cpu_time_factor", factor, FACTOR_MAX)?,
            None => {
                field_sources.push(super::builtin::factor_assumed());
                1.0
            }
        };
        Ok(HardwareProfile {
            name: file.name,
            description: file.description,
            device: (file.device)
                .map(|section| section.check(&file.source))
                .transpose()?,
            source: file.source,
            costs,
            memory,
            cpu_time_factor,
            field_sources,
        })
    }

    /// The text of a file that [`from_toml`](Self::from_toml) reads as this.
    pub fn to_toml(&self) -> String {
        let text = |value: &str| toml::Value::from(value).to_string();
        let mut out = format!(
            "name = {}\ndescription = {}\nsource = {}\n",
            text(&self.name),
            text(&self.description),
            text(&self.source)
        );
        for (name, value, _, meaning) in self.figures() {
            match name {
                "issue_ns" => out += "\n[invalidation]\n",
                "table_line_ns" => out += "\n[memory]\n",
                "cpu_time_factor" => out += "\n[processor]\n",
                _ => {}
            }
            let value = match name {
                "range_invalidation" => (value != 0.0).to_string(),
                "cpu_time_factor" => format!("{value:?}"),
                _ => value.to_string(),
            };
            out += &format!("{:<28} # {meaning}\n", format!("{name} = {value}"));
        }
        if let Some(device) = &self.device {
            out += &format!(
                "\n[device]\nname = {}\ncommand_ns = {}\nbus_mb_per_s = {:?}\nqueue_depth = {}\n\
                 walks_per_page = {:?}\n",
                text(&device.name),
                device.command_ns,
                device.bytes_per_second as f64 / 1e6,
                device.queue_depth,
                device.walks_per_page
            );
        }
        out
    }
}

impl DeviceSection {
    fn check(self, source: &str) -> Result<StorageDevice, BoardError> {
        check_name(&self.name)?;
        let rate = positive("device.bus_mb_per_s", self.bus_mb_per_s, MB_PER_S_MAX)?;
        if self.queue_depth == 0 || self.queue_depth > DEPTH_MAX {
            return Err(refuse(
                "device.queue_depth",
                f64::from(self.queue_depth),
                "it has to lie between 1 and 65536",
            ));
        }
        let walks = self.walks_per_page;
        if !(0.0..=WALKS_MAX).contains(&walks) {
            return Err(refuse(
                "device.walks_per_page",
                walks,
                "it has to lie between 0 and 64",
            ));
        }
        Ok(StorageDevice {
            name: self.name,
            description: "Of a board file".to_owned(),
            source: source.to_owned(),
            command_ns: ns("device.command_ns", self.command_ns)?,
            bytes_per_second: (rate * 1e6).round() as u64,
            queue_depth: self.queue_depth,
            walks_per_page: walks,
            field_sources: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = r#"
        name = "my-board"
        source = "dma_map_benchmark, yesterday"
        [invalidation]
        command_ns = 75
        sync_ns = 600.4
        range_invalidation = false
        [processor]
        cpu_time_factor = 3.5
        [device]
        name = "card"
        command_ns = 90000
        bus_mb_per_s = 104
        queue_depth = 2
    "#;

    #[test]
    fn a_board_is_read_and_written_back() {
        let board = HardwareProfile::from_toml(WHOLE).unwrap();
        assert_eq!((board.costs.command_ns, board.costs.sync_ns), (75, 600));
        assert_eq!(board.memory, MemoryCosts::COHERENT);
        assert!(board.source_of("walk_read_ns").contains("Fast & Safe"));
        let device = board.device.as_ref().unwrap();
        assert_eq!(
            (device.bytes_per_second, device.queue_depth),
            (104_000_000, 2)
        );
        for profile in super::super::built_in().into_iter().chain([board]) {
            let again = HardwareProfile::from_toml(&profile.to_toml()).unwrap();
            assert_eq!(again.figures(), profile.figures());
            assert_eq!(
                (&again.name, &again.source),
                (&profile.name, &profile.source)
            );
            let rate = |p: &HardwareProfile| p.device.as_ref().map(|d| d.service_ns(4096));
            assert_eq!(rate(&again), rate(&profile));
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (from, to, words) in [
            ("600.4", "-1", "sync_ns is -1, but time cannot be negative"),
            ("600.4", "nan", "sync_ns is NaN, but that is no number"),
            ("600.4", "inf", "more than a second"),
            ("600.4", "5e9", "more than a second"),
            ("600.4", "6e-7", "not in seconds"),
            ("600.4", "\"600ns\"", "invalid type: string"),
            ("sync_ns", "sync_us", "unknown field `sync_us`"),
            ("sync_ns = 600.4", "", "missing field `sync_ns`"),
            (
                "command_ns = 75",
                "command_ns = 0\nissue_ns = 0",
                "are all 0",
            ),
            (
                "3.5",
                "0",
                "cpu_time_factor is 0, but it has to be positive",
            ),
            ("3.5", "1e9", "between"),
            ("3.5", "-2", "positive"),
            ("my-board", "", "1 to 60 letters"),
            ("my-board", "<b>", "1 to 60 letters"),
            ("= 104", "= 0", "bus_mb_per_s is 0"),
            ("= 104", "= 1e12", "between"),
            ("queue_depth = 2", "queue_depth = 0", "between 1 and 65536"),
            ("queue_depth = 2", "queue_depth = -1", "invalid value"),
            (
                "queue_depth = 2",
                "queue_depth = 2\nwalks_per_page = nan",
                "between 0 and 64",
            ),
            ("[device]", "[devices]", "unknown field `devices`"),
            ("false", "1", "invalid type"),
            ("source", "origin", "unknown field `origin`"),
        ] {
            let mut text = WHOLE.replace(from, to);
            if words == "are all 0" {
                text = text.replace("sync_ns = 600.4", "sync_ns = 0");
            }
            let said = HardwareProfile::from_toml(&text).unwrap_err().to_string();
            assert!(said.contains(words), "{to}: {said}");
            assert!(!said.contains('\n'), "{said:?}");
        }
        let none = HardwareProfile::find("smmuv9").unwrap_err().to_string();
        assert!(none.contains("there are: smmuv3-server-2020,"), "{none}");
        let gone = HardwareProfile::find("no/such.toml").unwrap_err();
        assert!(matches!(gone, BoardError::Unreadable { .. }));
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "\\PC{0,300}") {
            let _ = HardwareProfile::from_toml(&text);
        }

        #[test]
        fn any_figures_are_refused_or_stay_finite(
            figures in prop::array::uniform8(any::<f64>()),
            depth in any::<i64>(),
        ) {
            let [a, b, c, d, e, f, g, h] = figures.map(|x| {
                if x.is_nan() { "nan".to_owned() } else { format!("{x:?}") }
            });
            let text = format!(
                "name = 'b'\nsource = 's'\n[invalidation]\nissue_ns = {a}\ndoorbell_ns = {b}\n\
                 command_ns = {c}\nsync_ns = {d}\nrange_invalidation = true\n[processor]\n\
                 cpu_time_factor = {e}\n[device]\nname = 'd'\ncommand_ns = {f}\nbus_mb_per_s = {g}\n\
                 queue_depth = {depth}\nwalks_per_page = {h}\n"
            );
            if let Ok(board) = HardwareProfile::from_toml(&text) {
                prop_assert!(board.figures().iter().all(|(_, v, _, _)| v.is_finite() && *v >= 0.0));
            }
        }
    }
}
