//! A run of workloads in modes, from the options to the report.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    AppError,
    chosen::modes_of,
    interrupt::{EXIT_INTERRUPTED, INTERRUPTED, exit_code, write_whole},
    terminal::{print, print_json, progress_bar},
};
use crate::{
    cli::{ModeArg, RunOptions, ShapeOptions},
    report::{self, Report},
    run::{self, Plan},
    workload::Workload,
};

pub(super) fn execute(
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
        write_whole(|| log.write(file))?;
    }
    show(&report, options)?;
    Ok(exit_code(found.interrupted))
}

/// Writes the files of a report and prints it.
pub(super) fn show(report: &Report, options: &RunOptions) -> Result<(), AppError> {
    let written = write_whole(|| report::write(report, &options.out))?;
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

/// Options without a field of their own in the report, as they are spelt.
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
        (
            "bounce-in-place-from",
            options.bounce_in_place_from.map(|n| n.to_string()),
        ),
    ];
    for (name, value) in given {
        other.extend(value.map(|value| (name.to_owned(), value)));
    }
    if !options.workload.is_empty() {
        other.insert("workload".to_owned(), options.workload.join(","));
    }
    other
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
