//! The process: started so that it cannot be left behind, killed and reaped.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::time::Duration;
use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::{fs::FileExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
};

use super::{QemuError, QemuVersion, shared::anonymous_file};

/// How long a process that closed its connection may take to end by itself.
const ENDING: Duration = Duration::from_secs(2);
/// How long `--version` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of its messages that are repeated in an error.
const MESSAGE_MAX: u64 = 2000;

/// A running QEMU. Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Process {
    child: Mutex<Child>,
    messages: File,
    /// The thread that started it waits for this to be dropped.
    keeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// Sets up a command so that its process dies with this one and inherits `fds`,
/// and nothing else that is closed on exec.
fn prepare(command: &mut Command, fds: Vec<RawFd>) {
    let parent = getpid();
    // Of its own group: Ctrl-C in a terminal is for this process to act upon.
    command.process_group(0);
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Had the parent died before the line above, nobody would kill us.
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        for fd in &fds {
            // SAFETY: the caller of `spawn` keeps the descriptors open until it
            // has returned, and this runs before.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made (`prctl`,
    // `getppid`, `fcntl`), all of them safe in a signal handler; no memory is
    // allocated, no lock taken.
    unsafe { command.pre_exec(before_exec) };
}

fn spawn_error(binary: &Path, error: &io::Error) -> QemuError {
    let binary = binary.to_path_buf();
    match error.kind() {
        io::ErrorKind::NotFound => QemuError::NotFound { binary },
        kind => QemuError::NotRunnable { binary, kind },
    }
}

/// Asks `binary` which QEMU it is.
pub(super) fn version(binary: &Path) -> Result<QemuVersion, QemuError> {
    let answer = anonymous_file("a version", 0)?;
    let out = (answer.try_clone()).map_err(|error| QemuError::host("a file", &error))?;
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null());
    // This thread waits for it to end, so it cannot end before.
    prepare(&mut command, Vec::new());
    let mut child = command
        .spawn()
        .map_err(|error| spawn_error(binary, &error))?;
    if wait_briefly(&mut child, VERSION_TIMEOUT).is_none() {
        kill_and_reap(&mut child);
        return Err(QemuError::Hung {
            after: VERSION_TIMEOUT,
        });
    }
    let text = tail(&answer);
    let version = QemuVersion::parse(&text).ok_or_else(|| QemuError::NotQemu {
        binary: binary.to_path_buf(),
        answer: text.chars().take(80).collect(),
    })?;
    if version < QemuVersion::OLDEST {
        return Err(QemuError::TooOld { found: version });
    }
    Ok(version)
}

impl Process {
    /// Starts QEMU. `fds` are open, and inherited under their numbers.
    pub(super) fn start(
        binary: &Path,
        arguments: Vec<OsString>,
        fds: Vec<RawFd>,
    ) -> Result<Arc<Self>, QemuError> {
        let messages = anonymous_file("messages", 0)?;
        let err = (messages.try_clone()).map_err(|error| QemuError::host("a file", &error))?;
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(err);
        prepare(&mut command, fds);
        let (report, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        // "Death of the parent" is that of the thread that forked. So a thread
        // does it that lives as long as this value, or this process.
        let keeper = thread::Builder::new()
            .name("qemu-keeper".into())
            .spawn(move || {
                let spawned = command.spawn();
                let alive = spawned.is_ok();
                if report.send(spawned).is_ok() && alive {
                    // Ends when the sender is dropped.
                    let _ended = stopped.recv();
                }
            })
            .map_err(|error| QemuError::host("a thread", &error))?;
        let spawned = match started.recv() {
            Ok(spawned) => spawned,
            Err(_) => Err(io::ErrorKind::Other.into()),
        };
        let child = spawned.map_err(|error| spawn_error(binary, &error))?;
        Ok(Arc::new(Process {
            child: Mutex::new(child),
            messages,
            keeper: Some((stop, keeper)),
        }))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        // Nothing that could be half done is in it.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its process ID.
    pub(super) fn id(&self) -> u32 {
        self.child().id()
    }

    /// Its status, if it has ended.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// It closed its connection: what it says about that. It has ended when this
    /// returns.
    pub(super) fn died(&self) -> QemuError {
        let mut child = self.child();
        let status = wait_briefly(&mut child, ENDING);
        kill_and_reap(&mut child);
        QemuError::Died {
            status,
            message: tail(&self.messages),
        }
    }

    /// It has ended when this returns.
    pub(super) fn kill(&self) {
        kill_and_reap(&mut self.child());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill_and_reap(&mut self.child());
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            // It cannot have panicked: it waits.
            let _ended = keeper.join();
        }
    }
}

fn kill_and_reap(child: &mut Child) {
    // Both fail only if it was reaped before.
    let _gone = child.kill();
    let _gone = child.wait();
}

/// Its status, if it ends within `time`.
fn wait_briefly(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begun.elapsed() < time => thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}

/// The end of a file, as text in one line.
fn tail(file: &File) -> String {
    let len = file.metadata().map_or(0, |m| m.len());
    let mut bytes = alloc::vec![0; len.min(MESSAGE_MAX) as usize];
    let from = len - bytes.len() as u64;
    if file.read_exact_at(&mut bytes, from).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}
