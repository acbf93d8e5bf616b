//! Which options each command has a use for. The others are refused: an option
//! that silently does nothing looks like one that made no difference.

use std::ffi::OsString;

use clap::{Args, CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};

use super::{Cli, Command, RunOptions};

/// The queues and the hardware that a domain is given.
const DOMAIN: &[&str] = &[
    "modes",
    "queue_entries",
    "flush_timeout_ms",
    "single_queue_entries",
    "single_flush_timeout_ms",
    "profile",
];
/// What chooses workloads and makes them.
const WORKLOADS: &[&str] = &["workload", "seed", "strict_parse"];
const TIMED: &[&str] = &["requests", "quick"];

impl Command {
    /// Names of fields of [`RunOptions`]. The output folder is not among them: a
    /// script may name it everywhere.
    fn uses(&self) -> Vec<&'static str> {
        let (groups, single): (&[&[&str]], &[&str]) = match self {
            Command::Compare(_) | Command::Replay { .. } => {
                let single = &["bounce_in_place_from", "hdr_log", "json"];
                (&[DOMAIN, WORKLOADS, TIMED], single)
            }
            Command::List(_) => (&[WORKLOADS], &[]),
            Command::Scenario { .. } => (&[], &["seed", "quick"]),
            Command::Map(_) => (
                &[],
                &[
                    "modes",
                    "queue_entries",
                    "flush_timeout_ms",
                    "single_queue_entries",
                    "single_flush_timeout_ms",
                    "seed",
                    "hdr_log",
                    "json",
                ],
            ),
            Command::Sweep(_) => (
                &[DOMAIN, WORKLOADS, TIMED],
                &["bounce_in_place_from", "json"],
            ),
            Command::Breakdown(_) => (
                &[TIMED],
                &[
                    "modes",
                    "queue_entries",
                    "flush_timeout_ms",
                    "profile",
                    "json",
                ],
            ),
            Command::Qemu { .. } => (&[DOMAIN, WORKLOADS], &["json"]),
            Command::Report { .. } => (&[], &["json"]),
            Command::Profiles(_) | Command::Fit(_) | Command::CheckModel => (&[], &[]),
        };
        groups
            .iter()
            .copied()
            .flatten()
            .chain(single)
            .copied()
            .collect()
    }
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    ///
    /// A usage error, or what `--help` and `--version` print: its
    /// [`exit`](clap::Error::exit) does what is to be done.
    pub fn read(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut program = Cli::command();
        let matches = program.try_get_matches_from_mut(arguments)?;
        let cli = Cli::from_arg_matches(&matches)?;
        // Without a command all of them are used.
        let (Some(command), Some((name, given))) = (&cli.command, matches.subcommand()) else {
            return Ok(cli);
        };
        let uses = command.uses();
        let known = RunOptions::augment_args(clap::Command::new(""));
        let unused = known.get_arguments().find(|option| {
            let id = option.get_id().as_str();
            id != "out"
                && !uses.contains(&id)
                && given.value_source(id) == Some(ValueSource::CommandLine)
        });
        match unused {
            Some(option) => Err(program.error(
                ErrorKind::ArgumentConflict,
                format!(
                    "--{} does nothing in `{name}`; leave it out",
                    option.get_long().unwrap_or_default()
                ),
            )),
            None => Ok(cli),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("dmabench").chain(line.split(' '));
        Cli::read(words).map_err(|error| error.to_string())
    }

    #[test]
    fn an_option_without_a_use_is_refused_wherever_it_stands() {
        for (line, option, command) in [
            ("--hdr-log f sweep", "--hdr-log", "`sweep`"),
            ("qemu --requests 10", "--requests", "`qemu`"),
            ("map --quick", "--quick", "`map`"),
            ("--json list", "--json", "`list`"),
            ("scenario --modes strict", "--modes", "`scenario`"),
            ("report r.json --seed 1", "--seed", "`report`"),
            (
                "fit rows.csv --profile smmuv3-trapped",
                "--profile",
                "`fit`",
            ),
        ] {
            let said = read(line).unwrap_err();
            let words = format!("{option} does nothing in {command}");
            assert!(said.contains(&words), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_used_is_taken() {
        for line in [
            "--quick --json --hdr-log f",
            "compare --strict-parse --requests 10",
            "--out o list --workload cqe",
            "--out o check-model",
            "map --seed 3 --hdr-log f --modes lazy-single --single-queue-entries 64",
            "sweep --quick --workload cqe",
            "qemu --single-flush-timeout-ms 3 --seed 2",
            "breakdown --requests 10 --profile smmuv3-trapped",
        ] {
            read(line).unwrap();
        }
    }

    #[test]
    fn every_name_is_that_of_an_option() {
        let known = RunOptions::augment_args(clap::Command::new(""));
        let names: Vec<&str> = known.get_arguments().map(|a| a.get_id().as_str()).collect();
        let compare = Command::Compare(Default::default()).uses();
        for name in &compare {
            assert!(names.contains(name), "{name}");
        }
        assert_eq!(compare.len() + 1, names.len(), "all but --out");
    }
}
