//! Which workloads and modes the options choose.

use std::{collections::BTreeMap, path::PathBuf};

use rayon::prelude::*;

use super::AppError;
use crate::{
    cli::{ModeArg, ModeChoice, RunOptions, ShapeOptions},
    trace::{self, shipped},
    workload::{Workload, generate},
};

/// The shipped traces and the generated workloads.
pub(super) fn compare_workloads(
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
        let generator = generator.shaped(&shape.shape())?;
        let players = shape.players();
        workloads.push(generate::played_by(&*generator, options.seed, players));
    }
    Ok(workloads)
}

/// The user's traces.
pub(super) fn replay_workloads(
    files: &[PathBuf],
    options: &RunOptions,
) -> Result<Vec<Workload>, AppError> {
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

/// The modes to run, and a remark on those left out: several threads cannot play
/// the modes in which a request is not mapped and unmapped by itself.
pub(super) fn modes_of(
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
