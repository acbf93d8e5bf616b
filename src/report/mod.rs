//! What a run found, and how it is shown: the result file, the terminal table, the HTML page.
//!
//! The runner fills a [`Report`]; everything here only reads it. Nothing is computed that is not
//! in the report, so that `report.json` alone is enough to make the page again.
//!
//! Three kinds of figure exist and are never mixed ([`Kind`]): *measured* (time our code took on
//! this machine), *counted* (commands, accesses, pages: the same on every machine) and *modelled*
//! (hardware time, from a named profile with its source).

mod schema;

pub use schema::*;
