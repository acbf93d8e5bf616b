//! The machine the measured figures belong to, as far as the system tells.

use std::fs;

use super::clock::TickClock;
use crate::report::Machine;

/// Describes this machine; what cannot be found out is "unknown".
pub fn describe(clock: &TickClock) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| -> Option<String> {
        let line = cpuinfo.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let uname = rustix::system::uname();
    Machine {
        cpu_model: field("model name")
            .or_else(device_tree_model)
            .unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        arch: std::env::consts::ARCH.to_owned(),
        os: distribution().unwrap_or_else(|| std::env::consts::OS.to_owned()),
        kernel: uname.release().to_string_lossy().into_owned(),
        // Only x86 says so in a place that every user may read.
        virtualised: field("flags").map(|f| f.split(' ').any(|flag| flag == "hypervisor")),
        clock: clock.info(),
    }
}

/// What boards with a device tree call themselves; ends with a NUL.
fn device_tree_model() -> Option<String> {
    let model = fs::read_to_string("/proc/device-tree/model").ok()?;
    Some(model.trim_end_matches('\0').to_owned())
}

fn distribution() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let line = release.lines().find(|l| l.starts_with("PRETTY_NAME="))?;
    Some(line["PRETTY_NAME=".len()..].trim_matches('"').to_owned())
}
