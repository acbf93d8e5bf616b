//! The benchmark: strict against lazy unmapping on real SD/MMC I/O.

use std::process::ExitCode;

use dmabench::{app, cli::Cli};

fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    app::install_interrupt();
    match app::main(&cli, app::command_line()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
