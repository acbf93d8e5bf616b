//! What can go wrong between this process and QEMU.

use alloc::string::String;
use core::{fmt, time::Duration};
use std::{io, path::PathBuf, process::ExitStatus};

use super::QemuVersion;

/// Why there is no QEMU to talk to, or no longer one. Displays what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QemuError {
    /// There is no such program.
    NotFound {
        /// What was looked for.
        binary: PathBuf,
    },
    /// It cannot be run.
    NotRunnable {
        /// What was tried.
        binary: PathBuf,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// It runs, but does not say that it is QEMU.
    NotQemu {
        /// What was run.
        binary: PathBuf,
        /// How its answer begins.
        answer: String,
    },
    /// It is older than [`QemuVersion::OLDEST`].
    TooOld {
        /// What it is.
        found: QemuVersion,
    },
    /// The operating system refused memory, a socket or a thread.
    Host {
        /// What was asked of it.
        what: &'static str,
        /// Why it refused.
        kind: io::ErrorKind,
    },
    /// QEMU ended, or closed the connection.
    Died {
        /// Its exit status, if it has ended.
        status: Option<ExitStatus>,
        /// The end of what it printed.
        message: String,
    },
    /// QEMU did not answer in time, and was killed.
    Hung {
        /// The time that was granted.
        after: Duration,
    },
    /// QEMU answered something that is no answer, and was killed.
    Protocol {
        /// The line.
        line: String,
    },
    /// A setting makes no sense.
    Config {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The machine has no such device.
    NoDevice {
        /// What was looked for.
        what: &'static str,
        /// Which of them.
        index: usize,
    },
    /// The SD card did not answer a command of its bring-up as it should.
    Card {
        /// Index of the command.
        command: u8,
        /// Interrupt status of the controller.
        status: u32,
        /// The response's first word.
        response: u32,
    },
}

impl QemuError {
    pub(super) fn host(what: &'static str, error: &io::Error) -> Self {
        QemuError::Host {
            what,
            kind: error.kind(),
        }
    }
}

/// How to get what is missing.
const GET_IT: &str = "install QEMU for Arm (Debian and Ubuntu: apt-get install qemu-system-arm; \
                      Fedora: dnf install qemu-system-aarch64), or set QEMU_SYSTEM_AARCH64 to it";

impl fmt::Display for QemuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QemuError::NotFound { binary } => {
                write!(f, "{} was not found: {GET_IT}", binary.display())
            }
            QemuError::NotRunnable { binary, kind } => {
                write!(f, "{} cannot be run ({kind}): {GET_IT}", binary.display())
            }
            QemuError::NotQemu { binary, answer } => write!(
                f,
                "{} does not answer --version as QEMU does ({answer:?}): {GET_IT}",
                binary.display()
            ),
            QemuError::TooOld { found } => write!(
                f,
                "QEMU {found} is too old, {} is the oldest that works: {GET_IT}",
                QemuVersion::OLDEST
            ),
            QemuError::Host { what, kind } => {
                write!(f, "the system refused {what} for QEMU ({kind}): free some")
            }
            QemuError::Died { status, message } => {
                f.write_str("QEMU ended")?;
                if let Some(status) = status {
                    write!(f, " ({status})")?;
                }
                match message.as_str() {
                    "" => f.write_str(" without a message; start it again"),
                    message => write!(f, ": {message}; start it again"),
                }
            }
            QemuError::Hung { after } => write!(
                f,
                "QEMU did not answer for {after:?} and was killed; start it again, on a busy \
                 machine with a longer QemuConfig::reply_timeout"
            ),
            QemuError::Protocol { line } => write!(
                f,
                "QEMU answered {line:?}, which is no answer, and was killed; report it with the \
                 version of QEMU"
            ),
            QemuError::Config { reason } => f.write_str(reason),
            QemuError::NoDevice { what, index } => {
                write!(
                    f,
                    "QEMU's machine has no {what} number {index}; add it to the QemuConfig"
                )
            }
            QemuError::Card {
                command,
                status,
                response,
            } => write!(
                f,
                "the SD card answered CMD{command} with status {status:#x}, response \
                 {response:#x}; start QEMU again"
            ),
        }
    }
}

impl core::error::Error for QemuError {}
