//! One emulated machine.

use alloc::{sync::Arc, vec::Vec};
use std::{
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    process::ExitStatus,
};

use super::{
    CardImage, GuestRam, QemuConfig, QemuError, QemuSmmu, QemuVersion, Qtest, SdHost, TraceCounts,
    config::Inherited,
    pci::{self, Function},
    process::{self, Process},
    shared::{Shared, anonymous_file},
    trace::Trace,
};

/// A running QEMU: an SMMUv3, RAM, and SD cards behind it. See the
/// [module](super).
///
/// Dropping it kills the process. What was made from it stays usable and says
/// that QEMU is gone.
#[derive(Debug)]
pub struct Qemu {
    version: QemuVersion,
    ram: GuestRam,
    images: Vec<CardImage>,
    functions: Vec<Function>,
    qtest: Qtest,
    trace: Trace,
    process: Arc<Process>,
}

impl Qemu {
    /// Starts QEMU and turns on the controllers of its cards. 50 to 100 ms on an
    /// idle machine.
    ///
    /// # Errors
    ///
    /// [`QemuError`]; nothing is left behind.
    pub fn start(config: QemuConfig) -> Result<Self, QemuError> {
        config.check()?;
        let version = process::version(&config.binary)?;
        let ram_file = anonymous_file("guest RAM", config.ram_bytes)?;
        let ram = GuestRam::new(&ram_file, config.ram_bytes)?;
        let mut image_files = Vec::new();
        let mut images = Vec::new();
        for &bytes in &config.card_bytes {
            let file = anonymous_file("a card image", bytes)?;
            images.push(CardImage::new(Shared::map("a card image", &file, bytes)?));
            image_files.push(file);
        }
        let log = anonymous_file("a trace", 0)?;
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| QemuError::host("a socket", &error))?;
        let inherited = Inherited {
            ram: ram_file.as_raw_fd(),
            socket: theirs.as_raw_fd(),
            log: log.as_raw_fd(),
            images: image_files.iter().map(AsRawFd::as_raw_fd).collect(),
        };
        let mut fds: Vec<RawFd> = inherited.images.clone();
        fds.extend([inherited.ram, inherited.socket, inherited.log]);
        let process = Process::start(&config.binary, config.arguments(&inherited), fds)?;
        // Only QEMU's own end keeps the connection open: its death shows.
        drop(theirs);
        let qtest = Qtest::new(ours, Arc::clone(&process), config.reply_timeout)?;
        let functions = pci::bring_up(&qtest)?;
        Ok(Qemu {
            version,
            ram,
            images,
            functions,
            qtest,
            trace: Trace::new(log),
            process,
        })
    }

    /// Its version.
    pub fn version(&self) -> QemuVersion {
        self.version
    }

    /// The machine's RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The machine's registers.
    pub fn qtest(&self) -> &Qtest {
        &self.qtest
    }

    /// The SMMU's registers, for a driver. One driver at a time should program
    /// them.
    pub fn smmu(&self) -> QemuSmmu {
        QemuSmmu::new(self.qtest.clone())
    }

    /// SD host controllers.
    pub fn sd_hosts(&self) -> usize {
        self.functions.len()
    }

    /// Resets controller `index` and brings its card up. One value at a time
    /// should drive it.
    ///
    /// # Errors
    ///
    /// [`QemuError::NoDevice`], [`QemuError::Card`], or the connection's.
    pub fn sd_host(&self, index: usize) -> Result<SdHost, QemuError> {
        let missing = QemuError::NoDevice {
            what: "SD host controller",
            index,
        };
        match (self.functions.get(index), self.images.get(index)) {
            (Some(function), Some(image)) => {
                SdHost::bring_up(self.qtest.clone(), *function, image.clone())
            }
            _ => Err(missing),
        }
    }

    /// What QEMU's own trace has recorded since the last call; empty without
    /// [`QemuConfig::trace`].
    pub fn traced(&self) -> TraceCounts {
        self.trace.take()
    }

    /// The process, for tests that do it harm.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Its exit status, if it has ended. What ended it: [`Qtest::broken`].
    pub fn status(&self) -> Option<ExitStatus> {
        self.process.status()
    }

    /// Ends QEMU now. Later calls say so.
    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // `Process` does so too, but only when the last `Qtest` is gone.
        self.process.kill();
    }
}
