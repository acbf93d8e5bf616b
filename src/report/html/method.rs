//! How each figure was obtained: the part of the page that makes the rest checkable.

use std::fmt::Write as _;

use super::{escape, put};
use crate::report::units::{bytes, count, number, time, utc};
use crate::report::{Parameter, Report};

/// Appends the section.
pub(super) fn write(page: &mut String, report: &Report) {
    let clock = &report.machine.clock;
    put!(
        page,
        "<section id=\"method\">\n<h2>How each figure was obtained</h2>\n<dl>\n\
         <dt>Measured: CPU per request</dt><dd>Processor time of batches of whole passes over the \
         workload, with no clock read inside, divided by their requests; the median batch, and \
         beside it the fastest and the slowest. The replay loop around the calls, the same in \
         every mode, is part of it. Invalidations go to a backend that counts and takes no time, \
         so this is what our own code costs. A workload is repeated until at least {} requests \
         were timed.</dd>\n\
         <dt>Measured: map and unmap</dt><dd>Every call timed with {} (tick {}); reading it twice \
         costs {}, which {} taken off. The longest call contains whatever the operating system \
         did meanwhile.</dd>\n",
        count(report.options.requests_min),
        escape(&clock.name),
        time(clock.tick_ns),
        time(clock.cost_ns),
        if clock.cost_subtracted {
            "was"
        } else {
            "was not"
        },
    );
    put!(
        page,
        "<dt>Counted: commands</dt><dd>Invalidations, full flushes and syncs that the timing run \
         handed to its backend, per pass. A flush queue of {} entries that fills every second \
         pass counts as half a flush.</dd>\n\
         <dt>Counted: exposure</dt><dd>One pass on a virtual clock, against a software SMMU whose \
         TLB and walk cache never evict. Every request takes the service time of the device \
         below; the device touches every page while it is mapped, and probes the first, a middle \
         and the last page of each buffer right after its unmap, after each later request, and just \
         before and after each flush, until the probe faults. A probe that reaches memory is a stale access; its age counts from the return of the unmap. The \
         flush queue's timer is {}. The final drain does not count. Passthrough has no such \
         figure: its device reaches all memory at all times.</dd>\n\
         <dt>Counted: mapped pages invalidated</dt><dd>Pages that stayed mapped when an invalidation \
         of others covered them, in the exposure run; a flush of everything covers all. Each is \
         looked up again, which no modelled figure contains.</dd>\n\
         <dt>Counted: pages held, translation tables</dt><dd>Largest values of the exposure run. \
         A page of {} is held from its map until its I/O address may be used again.</dd>\n",
        count(report.options.flush_queue_entries),
        time(report.options.flush_timeout_ns as f64),
        bytes(report.options.granule_bytes),
    );
    put!(
        page,
        "<dt>Modelled: hardware per request</dt><dd>{} Source: {}. Formula: {}. The CPU time is \
         not part of it.</dd>\n</dl>\n",
        sentence(&report.profile.description),
        escape(report.profile.source.trim_end_matches('.')),
        escape(&report.profile.formula),
    );
    parameters(
        page,
        &format!("Profile {}", report.profile.name),
        &report.profile.parameters,
    );
    let device = &report.service_device;
    put!(
        page,
        "<p>{} Source: {}.</p>\n",
        sentence(&device.description),
        escape(device.source.trim_end_matches('.'))
    );
    parameters(page, &format!("Device {}", device.name), &device.parameters);
    run(page, report);
    page.push_str("</section>\n");
}

/// Escaped, with the full stop that a description may or may not end in.
fn sentence(text: &str) -> String {
    format!("{}.", escape(text.trim_end_matches('.')))
}

fn parameters(page: &mut String, name: &str, parameters: &[Parameter]) {
    put!(
        page,
        "<div class=\"scroll\"><table class=\"text values\">\n<thead><tr><th>{}</th><th>value</th>\
         <th>source</th></tr></thead>\n<tbody>\n",
        escape(name)
    );
    for parameter in parameters {
        put!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{} {}</td><td>{}</td></tr>\n",
            escape(&parameter.name),
            number(parameter.value),
            escape(&parameter.unit),
            escape(&parameter.source)
        );
    }
    page.push_str("</tbody></table></div>\n");
}

fn run(page: &mut String, report: &Report) {
    let machine = &report.machine;
    let options = &report.options;
    let virtualised = match machine.virtualised {
        Some(true) => ", under a hypervisor",
        Some(false) => ", no hypervisor seen",
        None => "",
    };
    let mut rows = vec![
        ("command".to_owned(), report.command_line.join(" ")),
        (
            "begun".to_owned(),
            format!(
                "{}, took {} s",
                utc(report.started_unix_s),
                number(report.run_seconds)
            ),
        ),
        (
            "machine".to_owned(),
            format!(
                "{}, {} processors, {}{virtualised}",
                machine.cpu_model, machine.cores, machine.arch
            ),
        ),
        (
            "system".to_owned(),
            format!("{}, kernel {}", machine.os, machine.kernel),
        ),
        ("seed".to_owned(), report.seed.to_string()),
        ("granule".to_owned(), bytes(options.granule_bytes)),
        (
            "flush queue".to_owned(),
            format!(
                "{} entries, timer {}, looked at {}",
                count(options.flush_queue_entries),
                time(options.flush_timeout_ns as f64),
                if options.poll_period_ns == 0 {
                    "at its deadline".to_owned()
                } else {
                    format!("every {}", time(options.poll_period_ns as f64))
                }
            ),
        ),
    ];
    rows.extend(
        options
            .other
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    page.push_str(
        "<div class=\"scroll\"><table class=\"text\">\n<thead><tr><th>Run</th><th></th></tr>\
         </thead>\n<tbody>\n",
    );
    for (name, value) in rows {
        put!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
            escape(&name),
            escape(&value)
        );
    }
    put!(
        page,
        "</tbody></table></div>\n<p class=\"small\">The same figures, one per field, stand in \
         <code>report.json</code> beside this page (schema version {}).</p>\n",
        report.schema_version
    );
}
