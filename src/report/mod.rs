//! What a run found, and how it is shown: the result file, the terminal table, the HTML page.
//!
//! The runner fills a [`Report`]; everything here only reads it. Nothing is shown that is not in
//! the report or computed from it, so `report.json` alone is enough to make the page again.
//!
//! Three kinds of figure exist and are never mixed in silence ([`Kind`]): *measured* (time our
//! code took on this machine), *counted* (commands, accesses, pages: the same on every machine)
//! and *modelled* (hardware time, from a named profile with its source).
//!
//! A run calls [`check_out_dir`] before its work, [`write()`] after it, and prints [`table()`].

mod compare;
mod html;
mod plot;
#[cfg(test)]
mod sample;
mod schema;
mod table;
mod units;
mod verdict;
mod write;

pub use compare::{
    COMPARISON_VERSION, Change, Comparison, NotComparable, OnlyInOne, RunId, compare,
    text as comparison_text,
};
pub use html::sweep_page;
pub use schema::*;
pub use table::table;
pub(crate) use units::{bytes, plural};
pub use verdict::{Verdict, summary, verdicts};
pub use write::{
    ReportError, Written, check_file, check_out_dir, read, to_json, write, write_comparisons,
    write_file,
};
