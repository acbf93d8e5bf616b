//! What goes to the terminal.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::AppError;
use crate::{cli::RunOptions, report};

/// On standard error, and only where that is a terminal.
pub(super) fn progress_bar(units: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(units).with_style(style)
}

/// For work whose length is not known. As [`progress_bar`] else.
pub(super) fn spinner(what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Prints as JSON, ended by a line break.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), AppError> {
    print_bytes(&report::to_json(value)?)
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), AppError> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AppError::Output(error)),
        _ => Ok(()),
    }
}

/// As JSON where that was asked for, else as text.
pub(super) fn print_json_or(
    what: &(impl Serialize + fmt::Display),
    options: &RunOptions,
) -> Result<(), AppError> {
    if options.json {
        print_json(what)
    } else {
        print(&what.to_string())
    }
}
