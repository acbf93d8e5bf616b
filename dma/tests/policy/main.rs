//! The policy through its public interface.

mod mock;
mod orders;
mod registry;
mod table;
mod types;
