//! Ctrl-C: a run that ends early and loses nothing.

use std::sync::atomic::{AtomicBool, Ordering};

/// Set when the user wants the run to end; see [`install_interrupt`].
pub(super) static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Set while files are written: the program does not end in the middle of that.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Whether the command looks at [`INTERRUPTED`]; one that does not ends at once.
static HEEDED: AtomicBool = AtomicBool::new(false);

/// Exit code of a run that the user ended: 128 + SIGINT, as shells expect.
pub(super) const EXIT_INTERRUPTED: u8 = 130;

/// Ctrl-C once: the run ends after the measurement under way, and what was
/// found until then is written. Twice, or in a command that measures nothing to be
/// kept: the program ends, unless it is writing. Not for tests: the handler is the process's.
pub fn install_interrupt() {
    // Without a handler Ctrl-C ends the program at once, which is fine too.
    let _ = ctrlc::set_handler(|| {
        let again = INTERRUPTED.swap(true, Ordering::Relaxed);
        let waits = HEEDED.load(Ordering::Relaxed) && !again;
        if !waits && !WRITING.load(Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
    });
}

/// From here on the command looks whether it was interrupted.
pub(super) fn heed() {
    HEEDED.store(true, Ordering::Relaxed);
}

/// Writes files: Ctrl-C waits until that is done.
pub(super) fn write_whole<T>(write: impl FnOnce() -> T) -> T {
    WRITING.store(true, Ordering::Relaxed);
    let written = write();
    WRITING.store(false, Ordering::Relaxed);
    written
}

/// Of a run that may have ended early.
pub(super) fn exit_code(interrupted: bool) -> u8 {
    if interrupted { EXIT_INTERRUPTED } else { 0 }
}
