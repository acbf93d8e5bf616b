//! What QEMU's SMMU and SD host make of malformed commands, structures, queues
//! and lists: each is a typed error here, and the next transfer works.
#![cfg(target_os = "linux")]

mod lists;
mod meddler;
#[path = "../qemu_support/mod.rs"]
mod qemu_support;
mod queues;
mod rig;
mod structures;
