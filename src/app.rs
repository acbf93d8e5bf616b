//! What the program does with its command line: read the workloads, run them,
//! show and write what was found.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

#[cfg(target_os = "linux")]
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::Serialize;

#[cfg(target_os = "linux")]
use crate::qemu;
use crate::{
    breakdown::{self, BreakdownError},
    cli::{Cli, Command, ModeArg, ModeChoice, RunOptions, ShapeOptions},
    map::{self, MapError},
    model::commands::{self as model, ModelError},
    report::{self, Report, ReportError},
    run::{self, Plan, RunError},
    scenario::{self, Scenario, ScenarioOptions},
    sweep::{self, SweepArgs, SweepError},
    trace::{self, TraceError, shipped},
    workload::{
        Workload,
        generate::{self, Refused},
    },
};

/// Set when the user wants the run to end; see [`install_interrupt`].
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Set while files are written: the program does not end in the middle of that.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Exit code of a run that the user ended: 128 + SIGINT, as shells expect.
const EXIT_INTERRUPTED: u8 = 130;

/// Exit code of a comparison that found a run worse than the one it is judged by.
const EXIT_REGRESSION: u8 = 4;

/// Why the program stops. Displays as one line that says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppError {
    /// A trace cannot be used.
    Trace(TraceError),
    /// The report cannot be written.
    Report(ReportError),
    /// A workload cannot be run.
    Run(RunError),
    /// `--workload` leaves nothing.
    NoWorkload {
        /// What was asked for.
        wanted: Vec<String>,
        /// What there is.
        known: Vec<String>,
    },
    /// An option that one of the workloads has no use for.
    Option(Refused),
    /// An option that the command, or a shipped trace, has no use for.
    NotGenerated {
        /// The option.
        option: &'static str,
        /// What it was given for.
        what: &'static str,
    },
    /// A mode that several threads cannot play.
    OneThreadOnly(ModeArg),
    /// A scenario found no memory for its domain.
    NoMemory {
        /// Which one.
        scenario: &'static str,
    },
    /// `map` cannot be done as asked for.
    Map(MapError),
    /// `sweep` cannot be done as asked for.
    Sweep(SweepError),
    /// `breakdown` cannot be done as asked for.
    Breakdown(BreakdownError),
    /// The replay in QEMU stopped.
    #[cfg(target_os = "linux")]
    Qemu(qemu::QemuRunError),
    /// QEMU can be used on Linux only.
    #[cfg(not(target_os = "linux"))]
    NoQemu,
    /// A profile or measured rows cannot be used.
    Model(ModelError),
    /// The result cannot be printed.
    Output(io::Error),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::Trace(error) => error.fmt(f),
            AppError::Report(error) => error.fmt(f),
            AppError::Run(error) => error.fmt(f),
            AppError::Map(error) => error.fmt(f),
            AppError::Sweep(error) => error.fmt(f),
            AppError::Breakdown(error) => error.fmt(f),
            #[cfg(target_os = "linux")]
            AppError::Qemu(error) => error.fmt(f),
            #[cfg(not(target_os = "linux"))]
            AppError::NoQemu => f.write_str("`qemu` needs Linux: memory is shared by memfd"),
            AppError::Model(error) => error.fmt(f),
            AppError::NoWorkload { wanted, known } => write!(
                f,
                "no workload's name contains {}; there are: {}",
                wanted.join(" or "),
                known.join(", ")
            ),
            AppError::Option(refused) => refused.fmt(f),
            AppError::NotGenerated { option, what } => write!(
                f,
                "{option} changes generated workloads, not {what}: choose some with --workload (`dmabench list` names them)"
            ),
            AppError::OneThreadOnly(mode) => write!(
                f,
                "mode {mode} is not run by several threads: leave out --threads and --pairs, or choose other modes with --modes"
            ),
            AppError::NoMemory { scenario } => {
                write!(f, "not enough memory for {scenario}; try --quick")
            }
            AppError::Output(error) => write!(
                f,
                "cannot print the result: {error}; the report is in the output folder"
            ),
        }
    }
}

impl std::error::Error for AppError {}

impl From<TraceError> for AppError {
    fn from(error: TraceError) -> Self {
        AppError::Trace(error)
    }
}

impl From<ReportError> for AppError {
    fn from(error: ReportError) -> Self {
        AppError::Report(error)
    }
}

impl From<MapError> for AppError {
    fn from(error: MapError) -> Self {
        AppError::Map(error)
    }
}

impl From<ModelError> for AppError {
    fn from(error: ModelError) -> Self {
        AppError::Model(error)
    }
}

impl From<BreakdownError> for AppError {
    fn from(error: BreakdownError) -> Self {
        AppError::Breakdown(error)
    }
}

impl From<SweepError> for AppError {
    fn from(error: SweepError) -> Self {
        AppError::Sweep(error)
    }
}

impl From<RunError> for AppError {
    fn from(error: RunError) -> Self {
        AppError::Run(error)
    }
}

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
    WRITING.store(true, Ordering::Relaxed);
    let written = sweep::write(&found, &options.out);
    WRITING.store(false, Ordering::Relaxed);
    let written = written?;
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

fn exit_code(interrupted: bool) -> u8 {
    if interrupted { EXIT_INTERRUPTED } else { 0 }
}

/// The workloads of `compare`, with an emulated card that does the I/O.
#[cfg(target_os = "linux")]
fn replay_in_qemu(options: &RunOptions, limit_mib: u64) -> Result<u8, AppError> {
    report::check_out_dir(&options.out)?;
    let workloads = compare_workloads(options, &ShapeOptions::default())?;
    let modes = options.modes_or(ModeArg::value_variants());
    let plan = qemu::QemuPlan {
        run: Plan {
            modes,
            flush_queue_entries: options.queue_entries,
            flush_timeout_ns: options.flush_timeout_ms * 1_000_000,
            ..Plan::default()
        },
        limit_bytes: limit_mib << 20,
        machine: Default::default(),
    };
    let bar = progress_bar((workloads.len() * plan.run.modes.len()) as u64);
    let found = qemu::run(&workloads, &plan, &|| bar.inc(1), &INTERRUPTED);
    bar.finish_and_clear();
    let found = found.map_err(AppError::Qemu)?;
    let mut json =
        serde_json::to_vec_pretty(&found).map_err(|error| AppError::Output(error.into()))?;
    json.push(b'\n');
    let file = options.out.join("qemu.json");
    report::write_file(&file, &json)?;
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
    let file = report::write_comparisons(&comparisons, &options.out)?;
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

/// Ctrl-C once: the run ends after the measurement under way, and what was
/// found until then is written. Twice: the program ends, unless it is writing.
/// Not for tests: the handler is the process's.
pub fn install_interrupt() {
    // Without a handler Ctrl-C ends the program at once, which is fine too.
    let _ = ctrlc::set_handler(|| {
        let again = INTERRUPTED.swap(true, Ordering::Relaxed);
        if again && !WRITING.load(Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
    });
}

fn compare_workloads(
    options: &RunOptions,
    shape: &ShapeOptions,
) -> Result<Vec<Workload>, AppError> {
    let known =
        || (shipped::ALL.iter().map(|s| s.name)).chain(generate::ALL.iter().map(|g| g.name()));
    if !known().any(|name| options.wants(name)) {
        return Err(AppError::NoWorkload {
            wanted: options.workload.clone(),
            known: known().map(str::to_owned).collect(),
        });
    }
    let traces = || (shipped::ALL.iter()).any(|s| options.wants(s.name));
    if let Some(option) = shape.first_given()
        && traces()
    {
        return Err(AppError::NotGenerated {
            option,
            what: "the shipped traces",
        });
    }
    let parse = parse_options(options);
    let mut workloads = (shipped::ALL.par_iter())
        .filter(|shipped| options.wants(shipped.name))
        .map(|shipped| shipped.workload(parse))
        .collect::<Result<Vec<_>, _>>()?;
    for generator in generate::ALL.iter().filter(|g| options.wants(g.name())) {
        let generator = (generator.shaped(&shape.shape())).map_err(AppError::Option)?;
        let players = shape.players();
        workloads.push(generate::played_by(&*generator, options.seed, players));
    }
    Ok(workloads)
}

fn replay_workloads(files: &[PathBuf], options: &RunOptions) -> Result<Vec<Workload>, AppError> {
    let mut workloads = Vec::new();
    for file in files {
        workloads.push(trace::read_file(file, parse_options(options))?);
    }
    // Two files of one name from different folders.
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for workload in &mut workloads {
        let count = seen.entry(workload.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            workload.name = format!("{}#{count}", workload.name);
        }
    }
    let known: Vec<String> = workloads.iter().map(|w| w.name.clone()).collect();
    workloads.retain(|w| options.wants(&w.name));
    if workloads.is_empty() {
        return Err(AppError::NoWorkload {
            wanted: options.workload.clone(),
            known,
        });
    }
    Ok(workloads)
}

fn parse_options(options: &RunOptions) -> trace::Options {
    trace::Options {
        strict: options.strict_parse,
    }
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

fn execute(
    workloads: Vec<Workload>,
    options: &RunOptions,
    shape: &ShapeOptions,
    command_line: Vec<String>,
) -> Result<u8, AppError> {
    report::check_out_dir(&options.out)?;
    if let Some(file) = &options.hdr_log {
        report::check_file(file)?;
    }
    let (started, begun) = (SystemTime::now(), Instant::now());
    warn_of_damage(&workloads);

    let (modes, unrun) = modes_of(&workloads, options)?;
    let plan = Plan::of(options, &modes);
    let bar = progress_bar(plan.units(&workloads));
    let found = run::all(&workloads, &plan, &|| bar.inc(1), &INTERRUPTED)?;
    bar.finish_and_clear();

    let mut notes = found.notes;
    notes.extend(unrun);
    if found.interrupted {
        notes.push("The run was interrupted; only what was finished is here.".to_owned());
    }
    let report = Report {
        schema_version: report::SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command_line,
        started_unix_s: started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        run_seconds: begun.elapsed().as_secs_f64(),
        seed: options.seed,
        options: plan.for_report(other_options(options, shape, &plan.modes)),
        machine: run::machine(&found.clock),
        profile: plan.profile.for_report(),
        service_device: plan.device.for_report(),
        kind: report::kinds(),
        workloads: workloads.iter().map(Workload::summary).collect(),
        results: found.results,
        notes,
    };
    if found.interrupted && report.results.is_empty() {
        eprintln!("interrupted before anything was finished: no report written");
        return Ok(EXIT_INTERRUPTED);
    }
    if let (Some(log), Some(file)) = (&plan.hdr_log, &options.hdr_log) {
        WRITING.store(true, Ordering::Relaxed);
        let written = log.write(file);
        WRITING.store(false, Ordering::Relaxed);
        written?;
    }
    show(&report, options)?;
    Ok(exit_code(found.interrupted))
}

/// The modes to run, and a remark on those left out: several threads cannot play
/// the modes in which a request is not mapped and unmapped by itself.
fn modes_of(
    workloads: &[Workload],
    options: &RunOptions,
) -> Result<(Vec<ModeArg>, Option<String>), AppError> {
    let alone = |mode: &ModeArg| mode.one_thread_only();
    let mut modes = options.modes();
    if workloads.iter().all(|w| w.crew.is_none()) || !modes.iter().any(alone) {
        return Ok((modes, None));
    }
    let mut named = options.modes.iter().filter_map(|choice| match choice {
        ModeChoice::One(mode) => Some(*mode),
        ModeChoice::All => None,
    });
    if let Some(mode) = named.find(|mode| alone(mode)) {
        return Err(AppError::OneThreadOnly(mode));
    }
    let left_out: Vec<&str> = (modes.iter().filter(|m| alone(m)))
        .map(|m| m.name())
        .collect();
    let note = format!("Not run by several threads: {}.", left_out.join(", "));
    modes.retain(|mode| !alone(mode));
    Ok((modes, Some(note)))
}

/// Writes the files of a report and prints it.
fn show(report: &Report, options: &RunOptions) -> Result<(), AppError> {
    WRITING.store(true, Ordering::Relaxed);
    let written = report::write(report, &options.out);
    WRITING.store(false, Ordering::Relaxed);
    let written = written?;
    if options.json {
        print_json(report)?;
    } else {
        print(&report::table(report))?;
        print(&format!(
            "\nReport: {} and {}\n",
            written.html.display(),
            written.json.display()
        ))?;
    }
    Ok(())
}

/// As JSON where that was asked for, else as text.
fn print_json_or(
    what: &(impl Serialize + fmt::Display),
    options: &RunOptions,
) -> Result<(), AppError> {
    if options.json {
        print_json(what)
    } else {
        print(&what.to_string())
    }
}

/// Damage does not stop a run, so it is said at once and not only in the report.
fn warn_of_damage(workloads: &[Workload]) {
    for workload in workloads {
        let Some(parse) = &workload.parse else {
            continue;
        };
        for example in &parse.damaged_examples {
            eprintln!("warning: {example}; line skipped");
        }
        let unshown = parse.damaged_lines - parse.damaged_examples.len() as u64;
        if unshown > 0 {
            eprintln!(
                "warning: {}: {unshown} more damaged lines skipped",
                workload.name
            );
        }
        if parse.lost_events > 0 {
            eprintln!(
                "warning: {}: the kernel lost {} events; record with a larger buffer (trace-cmd -b)",
                workload.name, parse.lost_events
            );
        }
    }
}

fn other_options(
    options: &RunOptions,
    shape: &ShapeOptions,
    modes: &[ModeArg],
) -> BTreeMap<String, String> {
    let modes: Vec<&str> = modes.iter().map(|m| m.name()).collect();
    let mut other = BTreeMap::from([
        ("modes".to_owned(), modes.join(",")),
        ("strict-parse".to_owned(), options.strict_parse.to_string()),
        ("quick".to_owned(), options.quick.to_string()),
        (
            "single-queue-entries".to_owned(),
            options.single_queue_entries.to_string(),
        ),
        (
            "single-flush-timeout-ms".to_owned(),
            options.single_flush_timeout_ms.to_string(),
        ),
    ]);
    let given = [
        ("length", shape.length.map(|n| n.to_string())),
        ("depth", shape.depth.map(|n| n.to_string())),
        ("sizes", shape.sizes.as_ref().map(ToString::to_string)),
        ("threads", shape.threads.map(|n| n.to_string())),
        ("pairs", shape.pairs.map(|n| n.to_string())),
    ];
    for (name, value) in given {
        other.extend(value.map(|value| (name.to_owned(), value)));
    }
    if !options.workload.is_empty() {
        other.insert("workload".to_owned(), options.workload.join(","));
    }
    other
}

/// On standard error, and only where that is a terminal.
fn progress_bar(units: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(units).with_style(style)
}

/// For work whose length is not known. As [`progress_bar`] else.
fn spinner(what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(what);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

/// Prints as JSON, ended by a line break.
fn print_json(value: &impl Serialize) -> Result<(), AppError> {
    let mut json =
        serde_json::to_string_pretty(value).map_err(|error| AppError::Output(error.into()))?;
    json.push('\n');
    print(&json)
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
fn print(text: &str) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AppError::Output(error)),
        _ => Ok(()),
    }
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
