//! The command line: what can be asked for, and how it is spelt.

mod mode;
mod used;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dmabench_flushq::QueueConfig;

pub use self::mode::{ModeArg, ModeChoice};
use crate::{
    breakdown::BreakdownArgs,
    map::MapArgs,
    model::{
        self, HardwareProfile,
        commands::{FitArgs, ProfilesArgs},
    },
    scenario::Scenario,
    sweep::SweepArgs,
    workload::generate::{Players, Shape, SizeMix},
};

/// Requests that are timed for each workload and mode, at least: enough that
/// one in a thousand is a hundred of them.
pub const REQUESTS_DEFAULT: u64 = 100_000;

/// As [`REQUESTS_DEFAULT`], with `--quick`: for a first look and for tests.
pub const REQUESTS_QUICK: u64 = 2_000;

/// MiB that `qemu` replays of each generated workload and mode, where nothing
/// else is asked for: with the traces, less than a minute on two processors.
pub const QEMU_LIMIT_MIB: u64 = 4;

/// What strict IOMMU unmapping costs and what lazy unmapping exposes, on real
/// SD/MMC I/O.
///
/// Without a command: `compare`.
#[derive(Debug, Parser)]
#[command(name = "dmabench", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to do it; the same for every command that runs workloads.
    #[command(flatten)]
    pub options: RunOptions,
    /// What the generated workloads of `compare` are, where no command is named.
    #[command(flatten)]
    pub shape: ShapeOptions,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the shipped traces and the generated workloads in every mode
    Compare(ShapeOptions),
    /// Run your own traces (Linux ftrace, blkparse or fio iolog; plain, gzip or zstd) in every mode
    Replay {
        /// Files with the text of /sys/kernel/tracing/trace, of `trace-cmd report` or of `blkparse`, or iologs
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the workloads of `compare`
    List(ShapeOptions),
    /// Run a history that is hard on an IOVA allocator, beside Linux's published figures
    Scenario {
        /// Which one; without it, each of them
        #[arg(value_name = "NAME", value_parser = scenario_name)]
        name: Option<Scenario>,
    },
    /// Time map and unmap calls as Linux's dma_map_benchmark does, and more
    Map(MapArgs),
    /// Vary the flush queue's size and timeout, and the size of requests
    Sweep(SweepArgs),
    /// Show where the time of a request goes: alloc, page table, find, free, invalidate, other
    Breakdown(BreakdownArgs),
    /// Let an emulated SD card do the I/O of every workload, through QEMU's SMMUv3
    Qemu {
        /// MiB to replay of each generated workload in each mode; traces are replayed whole
        #[arg(
            long,
            value_name = "MIB",
            default_value_t = QEMU_LIMIT_MIB,
            value_parser = clap::value_parser!(u64).range(1..=65_536)
        )]
        limit: u64,
    },
    /// List the hardware profiles behind modelled figures, with sources, or print one as a file
    Profiles(ProfilesArgs),
    /// Make a profile of your own board from a few measured rows
    Fit(FitArgs),
    /// Hold the model against published tables: prediction, published figure, error
    CheckModel,
    /// Print the table of an earlier run and write its page again; of several, compare each with
    /// the first
    Report {
        /// The report.json of that run; with further ones, the run they are judged by. The exit
        /// code is 4 if one of them is worse
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// What generated workloads are. What an option means for each, and which
/// refuse it: `docs/workloads.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Generated workloads")]
pub struct ShapeOptions {
    /// Requests of one pass of each generated workload
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    pub length: Option<u32>,

    /// Requests mapped at once
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub depth: Option<u32>,

    /// Sizes of the requests with their weights, e.g. 4K:70,64K:20,512K:10
    #[arg(long, value_name = "SIZE:WEIGHT,...")]
    pub sizes: Option<SizeMix>,

    /// Threads on one domain, each with a stream of requests of its own
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "pairs",
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub threads: Option<u32>,

    /// Pairs of threads on one domain: one maps, the other unmaps
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=512)
    )]
    pub pairs: Option<u32>,
}

impl ShapeOptions {
    /// What a generator is asked for.
    pub fn shape(&self) -> Shape {
        Shape {
            requests: self.length,
            depth: self.depth,
            sizes: self.sizes.clone(),
            players: self.threads.or(self.pairs),
        }
    }

    /// Who plays it: one thread, if nothing else was asked for.
    pub fn players(&self) -> Players {
        match (self.pairs, self.threads) {
            (Some(pairs), _) => Players::Pairs(pairs),
            (None, threads) => Players::Threads(threads.unwrap_or(1)),
        }
    }

    /// These options, and `before` where they say nothing: options may stand
    /// before or behind the command.
    pub fn or(&self, before: &ShapeOptions) -> ShapeOptions {
        let asked = self.threads.is_some() || self.pairs.is_some();
        let players = if asked { self } else { before };
        ShapeOptions {
            length: self.length.or(before.length),
            depth: self.depth.or(before.depth),
            sizes: self.sizes.clone().or_else(|| before.sizes.clone()),
            threads: players.threads,
            pairs: players.pairs,
        }
    }

    /// The first option that was given, as it is spelt.
    pub fn first_given(&self) -> Option<&'static str> {
        [
            (self.length.is_some(), "--length"),
            (self.depth.is_some(), "--depth"),
            (self.sizes.is_some(), "--sizes"),
            (self.threads.is_some(), "--threads"),
            (self.pairs.is_some(), "--pairs"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Folder for report.json and report.html
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "target/dmabench"
    )]
    pub out: PathBuf,

    /// Modes to run [default: all of them; of `map`: strict]
    #[arg(long, global = true, value_delimiter = ',', value_name = "MODE,...")]
    pub modes: Vec<ModeChoice>,

    /// Run only workloads whose name contains this; may be given several times
    #[arg(long, global = true, value_name = "NAME")]
    pub workload: Vec<String>,

    /// Seed of the generated workloads
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Repeat each workload until so many requests were timed
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value_t = REQUESTS_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
    )]
    pub requests: u64,

    /// Time 2,000 requests of each only: a first look, too few for p99.9
    #[arg(long, global = true, conflicts_with = "requests")]
    pub quick: bool,

    /// Entries of the flush queue in lazy mode: a power of two, 2 to 32768
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value_t = 256,
        value_parser = queue_entries
    )]
    pub queue_entries: usize,

    /// Milliseconds that an entry of the flush queue may wait in lazy mode
    #[arg(
        long,
        global = true,
        value_name = "MS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600_000)
    )]
    pub flush_timeout_ms: u64,

    /// Entries of the one queue in mode lazy-single
    #[arg(
        long,
        global = true,
        value_name = "N",
        default_value_t = QueueConfig::SINGLE.entries_per_slot,
        value_parser = queue_entries
    )]
    pub single_queue_entries: usize,

    /// Milliseconds that an entry may wait in mode lazy-single
    #[arg(
        long,
        global = true,
        value_name = "MS",
        default_value_t = QueueConfig::SINGLE.timeout_ns / 1_000_000,
        value_parser = clap::value_parser!(u64).range(1..=3_600_000)
    )]
    pub single_flush_timeout_ms: u64,

    /// Bytes in whole pages from which on mode bounce maps a request in place and copies its ends only
    #[arg(
        long,
        global = true,
        value_name = "SIZE",
        value_parser = bytes_from
    )]
    pub bounce_in_place_from: Option<u64>,

    /// Hardware of the modelled figures: a name of `dmabench profiles`, or a board file (.toml)
    #[arg(
        long,
        global = true,
        value_name = "NAME|FILE",
        default_value = model::DEFAULT_PROFILE,
        value_parser = profile
    )]
    pub profile: HardwareProfile,

    /// Write latencies by interval to FILE, in HdrHistogram's log format (compare, replay, map)
    #[arg(long, global = true, value_name = "FILE")]
    pub hdr_log: Option<PathBuf>,

    /// Refuse a trace with a damaged line instead of skipping the line
    #[arg(long, global = true)]
    pub strict_parse: bool,

    /// Print the report as JSON instead of the table
    #[arg(long, global = true)]
    pub json: bool,
}

fn scenario_name(name: &str) -> Result<Scenario, String> {
    Scenario::by_name(name).ok_or_else(|| {
        let known = Scenario::ALL.map(Scenario::name);
        format!("there are: {}", known.join(", "))
    })
}

fn profile(name: &str) -> Result<HardwareProfile, String> {
    HardwareProfile::find(name).map_err(|error| error.to_string())
}

/// A number of bytes, as `65536`, `64k` or `1m`.
fn bytes_from(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, lg2) = match lower.strip_suffix(['k', 'm']) {
        Some(digits) if lower.ends_with('k') => (digits, 10),
        Some(digits) => (digits, 20),
        None => (lower.as_str(), 0),
    };
    (digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << lg2))
        .ok_or_else(|| "give a number of bytes, as 65536, 64k or 1m".to_owned())
}

pub(crate) fn queue_entries(text: &str) -> Result<usize, String> {
    let max = dmabench_flushq::FlushQueue::<()>::MAX_ENTRIES;
    match text.parse() {
        Ok(n) if (2..=max).contains(&n) && n.is_power_of_two() => Ok(n),
        _ => Err(format!("give a power of two from 2 to {max}")),
    }
}

impl RunOptions {
    /// The modes asked for, each once, cheapest safety first.
    pub fn modes(&self) -> Vec<ModeArg> {
        self.modes_or(ModeArg::value_variants())
    }

    /// As [`modes`](Self::modes), where a command has another default.
    pub fn modes_or(&self, default: &[ModeArg]) -> Vec<ModeArg> {
        if self.modes.is_empty() {
            return default.to_vec();
        }
        let mut modes: Vec<ModeArg> = (self.modes.iter())
            .flat_map(|choice| match choice {
                ModeChoice::One(mode) => std::slice::from_ref(mode),
                ModeChoice::All => ModeArg::value_variants(),
            })
            .copied()
            .collect();
        modes.sort_unstable();
        modes.dedup();
        modes
    }

    /// Requests to time at least.
    pub fn requests_min(&self) -> u64 {
        if self.quick {
            REQUESTS_QUICK
        } else {
            self.requests
        }
    }

    /// Whether a workload of that name was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.workload.is_empty() || self.workload.iter().any(|w| name.contains(w.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64k", 65536), ("1M", 1 << 20)] {
            assert_eq!(bytes_from(text), Ok(bytes));
        }
        for text in ["", "k", "-1", "64kb", "64 k", "1g", "20000000000000000m"] {
            assert!(bytes_from(text).is_err(), "{text}");
        }
    }

    #[test]
    fn options_stand_before_or_behind_the_command() {
        let before = Cli::parse_from(["dmabench", "--seed", "7", "replay", "a"]);
        let behind = Cli::parse_from(["dmabench", "replay", "a", "--seed", "7"]);
        assert_eq!(before.options.seed, 7);
        assert_eq!(behind.options.seed, 7);
        assert_eq!(before.command, behind.command);
        let first = Cli::parse_from(["dmabench", "--depth", "7", "--pairs", "2", "list"]);
        let last = Cli::parse_from(["dmabench", "list", "--depth", "7", "--threads", "3"]);
        let Some(Command::List(own)) = last.command else {
            panic!("{:?}", last.command);
        };
        assert_eq!(own.or(&last.shape).depth, Some(7));
        let both = own.or(&first.shape);
        assert_eq!(
            (both.threads, both.pairs),
            (Some(3), None),
            "the nearer one"
        );
        assert_eq!(first.shape.players(), Players::Pairs(2));
        let all = Cli::parse_from(["dmabench", "--modes", "lazy,all"]).options;
        assert_eq!(all.modes(), ModeArg::value_variants());
        for mode in ModeArg::value_variants() {
            let spelt = mode.to_possible_value().unwrap();
            assert_eq!(spelt.get_name(), mode.name());
            assert!(ModeChoice::value_variants().contains(&ModeChoice::One(*mode)));
        }
        let modes = Cli::parse_from(["dmabench", "--modes", "lazy,strict,lazy"]).options;
        assert_eq!(modes.modes(), [ModeArg::Strict, ModeArg::Lazy]);
        assert_eq!(
            modes.modes_or(&[ModeArg::Passthrough]),
            [ModeArg::Strict, ModeArg::Lazy]
        );
        assert_eq!(before.options.modes(), ModeArg::value_variants());
        assert_eq!(
            before.options.modes_or(&[ModeArg::Strict]),
            [ModeArg::Strict]
        );
    }
}
