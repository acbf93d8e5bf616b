//! What the program does with its command line: read the workloads, run them,
//! show and write what was found.

mod chosen;
mod error;
mod execute;
mod interrupt;
mod terminal;

use std::path::{Path, PathBuf};

use self::{
    chosen::{compare_workloads, replay_workloads},
    execute::{execute, show},
    interrupt::{INTERRUPTED, exit_code, heed, write_whole},
    terminal::{print, print_json, print_json_or, progress_bar, spinner},
};
pub use self::{error::AppError, interrupt::install_interrupt};
use crate::{
    breakdown,
    cli::{Cli, Command, RunOptions, ShapeOptions},
    map,
    model::commands as model,
    report,
    scenario::{self, Scenario, ScenarioOptions},
    sweep::{self, SweepArgs},
};
#[cfg(target_os = "linux")]
use crate::{cli::ModeArg, qemu, run::Plan};
#[cfg(target_os = "linux")]
use clap::ValueEnum;

/// Exit code of a comparison that found a run worse than the one it is judged by.
const EXIT_REGRESSION: u8 = 4;

/// Does what `cli` says and returns the exit code. `command_line` is for the
/// report.
///
/// # Errors
///
/// [`AppError`]; nothing half-written is left behind.
pub fn main(cli: &Cli, command_line: Vec<String>) -> Result<u8, AppError> {
    let options = &cli.options;
    let before = &cli.shape;
    let command = (cli.command.clone()).unwrap_or(Command::Compare(ShapeOptions::default()));
    if !matches!(command, Command::Compare(_) | Command::List(_))
        && let Some(option) = before.first_given()
    {
        return Err(AppError::NotGenerated {
            option,
            what: "what this command runs",
        });
    }
    let keeps_what_it_has = matches!(
        command,
        Command::Compare(_)
            | Command::Replay { .. }
            | Command::Map(_)
            | Command::Sweep(_)
            | Command::Breakdown(_)
            | Command::Qemu { .. }
    );
    if keeps_what_it_has {
        heed();
    }
    match &command {
        Command::Compare(own) => {
            let shape = own.or(before);
            let workloads = compare_workloads(options, &shape)?;
            execute(workloads, options, &shape, command_line)
        }
        Command::List(own) => {
            list(options, &own.or(before))?;
            Ok(0)
        }
        Command::Replay { files } => {
            let workloads = replay_workloads(files, options)?;
            execute(workloads, options, before, command_line)
        }
        Command::Scenario { name } => {
            let which = name.map_or(Scenario::ALL.to_vec(), |one| vec![one]);
            scenarios(&which, options)?;
            Ok(0)
        }
        Command::Profiles(args) => {
            print(&model::profiles(args)?)?;
            Ok(0)
        }
        Command::Fit(args) => {
            print(&model::fit(args)?)?;
            Ok(0)
        }
        Command::CheckModel => {
            print(&model::check_model())?;
            Ok(0)
        }
        Command::Report { files } => match files.as_slice() {
            [base, others @ ..] if !others.is_empty() => compare_reports(base, others, options),
            files => {
                for file in files {
                    let report = report::read(file)?;
                    report::check_out_dir(&options.out)?;
                    show(&report, options)?;
                }
                Ok(0)
            }
        },
        Command::Qemu { limit } => replay_in_qemu(options, *limit),
        Command::Map(args) => {
            let found = map::run(args, options, &INTERRUPTED)?;
            print_json_or(&found, options)?;
            Ok(exit_code(found.interrupted))
        }
        Command::Sweep(args) => sweeps(args, options),
        Command::Breakdown(args) => {
            let found = breakdown::run(args, options, &INTERRUPTED)?;
            print_json_or(&found, options)?;
            Ok(exit_code(found.interrupted))
        }
    }
}

/// Sweeps, and writes what was done even if that is not all.
fn sweeps(args: &SweepArgs, options: &RunOptions) -> Result<u8, AppError> {
    report::check_out_dir(&options.out)?;
    let mut wanted = options.clone();
    let mut shape = ShapeOptions {
        length: args.length,
        ..ShapeOptions::default()
    };
    if wanted.workload.is_empty() {
        wanted.workload.push(sweep::WORKLOAD_DEFAULT.to_owned());
        shape.length.get_or_insert(sweep::LENGTH_DEFAULT);
    }
    let workloads = match args.what {
        Some(sweep::What::Sizes) => Vec::new(),
        _ => compare_workloads(&wanted, &shape)?,
    };
    let bar = progress_bar(0);
    let begin = |points| bar.set_length(points);
    let found = sweep::run(
        args,
        options,
        &workloads,
        &begin,
        &|| bar.inc(1),
        &INTERRUPTED,
    )?;
    bar.finish_and_clear();
    let written = write_whole(|| sweep::write(&found, &options.out))?;
    print_json_or(&found, options)?;
    if !options.json {
        print(&format!(
            "Sweep: {}, {} and {}\n",
            written.html.display(),
            written.csv.display(),
            written.json.display()
        ))?;
    }
    Ok(exit_code(found.missing > 0))
}

/// The workloads of `compare`, with an emulated card that does the I/O.
#[cfg(target_os = "linux")]
fn replay_in_qemu(options: &RunOptions, limit_mib: u64) -> Result<u8, AppError> {
    report::check_out_dir(&options.out)?;
    let workloads = compare_workloads(options, &ShapeOptions::default())?;
    let plan = qemu::QemuPlan {
        run: Plan::of(options, ModeArg::value_variants()),
        limit_bytes: limit_mib << 20,
        machine: Default::default(),
    };
    let bar = progress_bar((workloads.len() * plan.run.modes.len()) as u64);
    let found = qemu::run(&workloads, &plan, &|| bar.inc(1), &INTERRUPTED);
    bar.finish_and_clear();
    let found = found?;
    let file = options.out.join("qemu.json");
    let json = report::to_json(&found)?;
    write_whole(|| report::write_file(&file, &json))?;
    if options.json {
        print_json(&found)?;
    } else {
        print(&format!("{found}\nResult: {}\n", file.display()))?;
    }
    Ok(exit_code(found.interrupted))
}

#[cfg(not(target_os = "linux"))]
fn replay_in_qemu(_: &RunOptions, _: u64) -> Result<u8, AppError> {
    Err(AppError::NoQemu)
}

/// Judges each of the other runs by the first.
fn compare_reports(base: &Path, others: &[PathBuf], options: &RunOptions) -> Result<u8, AppError> {
    let first = report::read(base)?;
    let mut comparisons = Vec::new();
    for other in others {
        let new = report::read(other)?;
        let names = (base.display().to_string(), other.display().to_string());
        comparisons.push(report::compare((&names.0, &first), (&names.1, &new)));
    }
    let file = write_whole(|| report::write_comparisons(&comparisons, &options.out))?;
    if options.json {
        print_json(&comparisons)?;
    } else {
        for comparison in &comparisons {
            print(&report::comparison_text(comparison))?;
            print("\n")?;
        }
        print(&format!("Comparison: {}\n", file.display()))?;
    }
    let worse = comparisons
        .iter()
        .any(|comparison| comparison.regressions().count() > 0);
    Ok(if worse { EXIT_REGRESSION } else { 0 })
}

/// Runs the scenarios one after the other, each printed when it is done.
fn scenarios(which: &[Scenario], options: &RunOptions) -> Result<(), AppError> {
    let settings = ScenarioOptions {
        seed: options.seed,
        quick: options.quick,
    };
    for &scenario in which {
        let bar = spinner(scenario.name());
        let result = scenario::run(scenario, settings);
        bar.finish_and_clear();
        let result = result.ok_or(AppError::NoMemory {
            scenario: scenario.name(),
        })?;
        print(&format!("{result}\nseed: {}\n\n", settings.seed))?;
    }
    Ok(())
}

fn list(options: &RunOptions, shape: &ShapeOptions) -> Result<(), AppError> {
    let workloads = compare_workloads(options, shape)?;
    let width = workloads.iter().map(|w| w.name.len()).max().unwrap_or(0);
    let lines: String = (workloads.iter())
        .map(|w| {
            let requests = w.requests().len();
            format!("{:width$} {requests:>8}  {}\n", w.name, w.description)
        })
        .collect();
    print(&lines)
}

/// The command line for the report: the program without its folder, which
/// tells nothing about the run.
pub fn command_line() -> Vec<String> {
    let mut arguments: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    if let Some(program) = arguments.first_mut() {
        let name = Path::new(program.as_str()).file_name();
        *program = name.map_or_else(
            || "dmabench".to_owned(),
            |n| n.to_string_lossy().into_owned(),
        );
    }
    arguments
}
