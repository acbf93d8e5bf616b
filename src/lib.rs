//! The parts of the `dmabench` tool, as a library so that its tests and its command line share them.
//!
//! The core to embed lives in the member crates (`dmabench-dma` is the one to start with); this
//! crate only measures it. [`trace`] and [`workload`] say what to run, [`report`] holds what a run
//! found and how it is shown.

pub mod app;
pub mod breakdown;
pub mod cli;
pub mod hdr_log;
pub mod map;
pub mod model;
#[cfg(target_os = "linux")]
pub mod qemu;
pub mod report;
pub mod run;
pub mod scenario;
mod size;
pub mod sweep;
pub mod trace;
pub mod workload;

/// The example of the README, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
