//! The policy through its public interface.

#[path = "../common/mod.rs"]
mod common;
mod domain;
mod mock;
mod orders;
mod registry;
mod table;
mod types;
