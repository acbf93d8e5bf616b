//! The program from the outside: what it prints and writes, and that every bad
//! input ends in one line that says what to do.

mod bad_input;
mod board;
mod breakdown;
mod compare;
#[cfg(unix)]
mod interrupt;
mod interval_log;
mod map;
mod replay;
mod report;
mod sweep;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
};

use tempfile::TempDir;

/// The program, run in a folder.
fn dmabench(dir: impl AsRef<Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmabench"));
    command.current_dir(dir);
    command
}

/// Ctrl-C. The process may have ended before.
fn interrupt(running: &Child) {
    let pid = rustix::process::Pid::from_child(running);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
}

/// A folder to run it in, with `out` for what it writes.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    fn command(&self) -> Command {
        let mut command = dmabench(&self.dir);
        command.args(["--out", "out"]);
        command
    }

    fn replay(&self, file: &Path, more: &[&str]) -> Output {
        let mut command = self.command();
        command.arg("replay").arg(file).args(["--requests", "50"]);
        command.args(more).output().unwrap()
    }

    /// The run must fail with one line on standard error that holds `words`,
    /// and leave nothing behind.
    fn refused(&self, file: &Path, words: &[&str]) {
        let output = self.replay(file, &[]);
        assert_refused(&output, words);
        assert!(!self.out().join("report.json").exists());
        assert!(!self.out().join("report.html").exists());
    }
}

/// What a run that succeeded printed.
fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A run that ended in one line on standard error, which holds `words`.
fn assert_refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{stderr:?} does not say {word:?}");
    }
    assert!(output.stdout.is_empty());
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("traces/{name}.txt.gz"))
}

fn unpacked(name: &str) -> Vec<u8> {
    let packed = fs::File::open(shipped(name)).unwrap();
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    text
}

fn json(out: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap()
}
