//! What machine QEMU emulates.

use alloc::{format, string::String, vec, vec::Vec};
use core::time::Duration;
use std::{ffi::OsString, path::PathBuf};

use super::QemuError;

/// The machine: RAM and SD cards, and how long it may take to answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QemuConfig {
    /// The program. Default: the environment variable `QEMU_SYSTEM_AARCH64`, else
    /// `qemu-system-aarch64` on the path.
    pub binary: PathBuf,
    /// Bytes of RAM, whole MiB, 16 MiB to 3 GiB. Only what is used takes memory.
    /// Default: 256 MiB.
    pub ram_bytes: u64,
    /// Bytes of each SD card, one for each controller: powers of two from 1 MiB
    /// up; those above 2 GiB are high-capacity cards. Only what is written takes
    /// memory. Default: one card of 64 MiB.
    pub card_bytes: Vec<u64>,
    /// How long one answer may take. Default: 20 s; the longest transfer, of
    /// 32 MiB, takes less than one on an idle machine.
    pub reply_timeout: Duration,
    /// Record the SMMU's commands and events
    /// ([`Qemu::traced`](super::Qemu::traced)). Default: off.
    pub trace: bool,
}

impl Default for QemuConfig {
    fn default() -> Self {
        let named = std::env::var_os("QEMU_SYSTEM_AARCH64").filter(|name| !name.is_empty());
        QemuConfig {
            binary: named.map_or_else(|| PathBuf::from("qemu-system-aarch64"), PathBuf::from),
            ram_bytes: 256 << 20,
            card_bytes: vec![64 << 20],
            reply_timeout: Duration::from_secs(20),
            trace: false,
        }
    }
}

/// Slots of the PCI bus that are left to QEMU's own devices.
const FIRST_SLOT: u32 = 4;
/// What bus 0 has room for.
const CARDS_MAX: usize = 16;

impl QemuConfig {
    /// With this program.
    pub fn with_binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = binary.into();
        self
    }

    /// With so much RAM.
    pub fn with_ram_bytes(mut self, bytes: u64) -> Self {
        self.ram_bytes = bytes;
        self
    }

    /// With these cards, one for each controller.
    pub fn with_cards(mut self, bytes: &[u64]) -> Self {
        self.card_bytes = bytes.to_vec();
        self
    }

    /// With another bound for each answer.
    pub fn with_reply_timeout(mut self, timeout: Duration) -> Self {
        self.reply_timeout = timeout;
        self
    }

    /// With a record of commands and events.
    pub fn with_trace(mut self) -> Self {
        self.trace = true;
        self
    }

    pub(super) fn check(&self) -> Result<(), QemuError> {
        const MIB: u64 = 1 << 20;
        let wrong = |reason| Err(QemuError::Config { reason });
        if !self.ram_bytes.is_multiple_of(MIB) || !(16 * MIB..=3 << 30).contains(&self.ram_bytes) {
            return wrong("RAM must be whole MiB, 16 MiB to 3 GiB");
        }
        if self.card_bytes.len() > CARDS_MAX {
            return wrong("at most 16 SD cards fit on the bus");
        }
        let legal = |bytes: &u64| bytes.is_power_of_two() && (MIB..=1 << 41).contains(bytes);
        if !self.card_bytes.iter().all(legal) {
            return wrong("an SD card has a power of two of bytes, 1 MiB to 2 TiB");
        }
        if self.reply_timeout.is_zero() {
            return wrong("the time for an answer must not be 0");
        }
        Ok(())
    }

    /// The command line. `files` are descriptors that the child inherits.
    pub(super) fn arguments(&self, files: &Inherited) -> Vec<OsString> {
        let fd = |number: i32| format!("/proc/self/fd/{number}");
        let mut line: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| line.extend(words.iter().map(|w| String::from(*w)));
        add(&["-nodefaults", "-no-user-config", "-display", "none"]);
        // `highmem=off` keeps the PCI window below 4 GiB.
        let machine = "virt,iommu=smmuv3,highmem=off,gic-version=2,memory-backend=ram";
        let megabytes = format!("{}", self.ram_bytes >> 20);
        add(&["-M", machine, "-cpu", "cortex-a57", "-smp", "1"]);
        add(&["-m", &megabytes]);
        let ram = format!(
            "memory-backend-file,id=ram,size={},mem-path={},share=on",
            self.ram_bytes,
            fd(files.ram)
        );
        add(&["-object", &ram]);
        let chardev = format!("socket,id=qt,fd={}", files.socket);
        add(&["-chardev", &chardev]);
        add(&["-object", "qtest,id=qtobj,chardev=qt,log=none"]);
        // The CPU never runs: there is no guest, and virtual time stands still.
        add(&["-accel", "tcg", "-S"]);
        for (index, image) in files.images.iter().enumerate() {
            let drive = format!("if=none,id=sd{index},format=raw,file={}", fd(*image));
            // Capabilities as by default, and ADMA2 with 64 address bits.
            let slot = FIRST_SLOT + index as u32;
            let host = format!("sdhci-pci,id=h{index},addr={slot:#x},capareg=0x157834b4");
            // It goes to the first bus without a card: that of this controller.
            let card = format!("sd-card,id=c{index},drive=sd{index}");
            add(&["-drive", &drive, "-device", &host, "-device", &card]);
        }
        if self.trace {
            add(&["-D", &fd(files.log)]);
            // Patterns: a name that a version does not have is no error.
            for pattern in [
                "smmuv3_cmdq_opcode*",
                "smmuv3_record_event*",
                "smmuv3_propagate_event*",
            ] {
                add(&["-trace", pattern]);
            }
        }
        line.into_iter().map(OsString::from).collect()
    }
}

/// Numbers of the descriptors that QEMU inherits.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) ram: i32,
    pub(super) socket: i32,
    pub(super) log: i32,
    pub(super) images: Vec<i32>,
}
