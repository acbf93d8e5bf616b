//! The figures of one workload: a column per mode, the rows in three blocks by kind.

use std::fmt::Write as _;

use super::{escape, put};
use crate::report::RunResult;
use crate::report::table::commands_per_request;
use crate::report::units::{bytes, count, number, time};
use crate::report::verdict::wait_ns;

/// Stands where a figure does not exist in a mode.
const NONE: &str = "none";

type Row = (&'static str, fn(&RunResult) -> String);

const MEASURED: &[Row] = &[
    ("CPU per request", |r| time(r.cpu_ns_per_request)),
    ("in the fastest batch", |r| time(r.cpu_ns_spread.min)),
    ("in the slowest batch", |r| time(r.cpu_ns_spread.max)),
    ("map, median", |r| time(r.map_ns.p50)),
    ("map, 99 %", |r| time(r.map_ns.p99)),
    ("map, 99.9 %", |r| time(r.map_ns.p999)),
    ("map, longest", |r| time(r.map_ns.max)),
    ("unmap, median", |r| time(r.unmap_ns.p50)),
    ("unmap, 99 %", |r| time(r.unmap_ns.p99)),
    ("unmap, 99.9 %", |r| time(r.unmap_ns.p999)),
    ("unmap, longest", |r| time(r.unmap_ns.max)),
];

const COUNTED: &[Row] = &[
    ("requests in a pass", |r| count(r.requests)),
    ("invalidation commands in a pass", |r| {
        number(r.tlb_invalidate_commands)
    }),
    ("full flushes in a pass", |r| {
        number(r.tlb_flush_all_commands)
    }),
    ("syncs in a pass", |r| number(r.sync_commands)),
    ("commands per request", |r| number(commands_per_request(r))),
    ("stale accesses", |r| {
        r.stale_device_accesses.map_or(NONE.to_owned(), count)
    }),
    ("of so many probes", |r| {
        r.exposure
            .as_ref()
            .map_or(NONE.to_owned(), |exposure| count(exposure.probes))
    }),
    ("longest stale window", |r| {
        r.stale_window_max_ns
            .map_or(NONE.to_owned(), |ns| time(ns as f64))
    }),
    ("stale memory at once", |r| {
        r.exposure
            .as_ref()
            .map_or(NONE.to_owned(), |exposure| bytes(exposure.stale_bytes_max))
    }),
    ("mapped pages invalidated", |r| {
        (r.exposure.as_ref())
            .and_then(|exposure| exposure.live_pages_invalidated)
            .map_or(NONE.to_owned(), count)
    }),
    ("I/O pages held, most", |r| count(r.iova_pages_held_max)),
    ("translation tables, most", |r| bytes(r.page_table_bytes)),
];

const MODELLED: &[Row] = &[
    ("hardware per request", |r| time(r.modelled_ns_per_request)),
    ("of it waited for", |r| time(wait_ns(r))),
    ("MB/s on the device below", |r| {
        r.modelled_mb_per_s.map_or(NONE.to_owned(), number)
    }),
];

/// Appends the table of one workload's results.
pub(super) fn write(page: &mut String, results: &[&RunResult]) {
    page.push_str("<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    for result in results {
        put!(page, "<th scope=\"col\">{}</th>", escape(&result.mode));
    }
    page.push_str("</tr></thead>\n");
    let model = results.first().map_or("", |result| result.model.as_str());
    block(page, results, "Measured on this machine", MEASURED);
    block(page, results, "Counted", COUNTED);
    block(page, results, &format!("Modelled, {model}"), MODELLED);
    page.push_str("</table></div>\n");
}

fn block(page: &mut String, results: &[&RunResult], heading: &str, rows: &[Row]) {
    put!(
        page,
        "<tbody><tr><th class=\"kind\" colspan=\"{}\">{}</th></tr>\n",
        results.len() + 1,
        escape(heading)
    );
    for (name, figure) in rows {
        put!(page, "<tr><th scope=\"row\">{name}</th>");
        for result in results {
            put!(page, "<td>{}</td>", escape(&figure(result)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n");
}
