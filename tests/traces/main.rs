//! Traces, from text to workloads.

mod block;
mod parse;
