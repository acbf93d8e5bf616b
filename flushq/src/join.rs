//! When two ranges with a gap between them are invalidated as one.

use crate::{RangeCommands, TlbRange, commands_for, whole_context_from};

/// What decides whether separate ranges are invalidated as one range that covers
/// the gap between them, too.
///
/// One range may take fewer commands, and makes the hardware forget translations
/// in the gap; those in use are looked up again. A gather does not know which these
/// are, so it takes every page of a gap to be in use, up to as many as devices work
/// on at one moment: what is joined is never dearer by these figures, wherever the
/// pages in use lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinCost {
    /// What one command can cover.
    pub range_commands: RangeCommands,
    /// To issue one invalidation command and to carry it out, in nanoseconds.
    pub command_ns: u64,
    /// To look up one translation again, in nanoseconds.
    pub refill_ns: u64,
    /// Granules that the devices of an address space work on at one moment: a page
    /// or two of each transfer under way (not all that are queued), and what they
    /// come back to over and over, as lists of descriptors.
    pub in_use_granules: u64,
}

impl JoinCost {
    /// Gaps are never covered. For a backend that does not know
    /// what its hardware takes.
    pub const EXACT: JoinCost = JoinCost {
        range_commands: RangeCommands::Supported,
        command_ns: 0,
        refill_ns: u64::MAX,
        in_use_granules: u64::MAX,
    };

    /// Gaps are covered where it saves commands and nothing in them can be in use.
    pub const fn unused_only(range_commands: RangeCommands) -> JoinCost {
        JoinCost {
            range_commands,
            command_ns: 1,
            refill_ns: u64::MAX,
            in_use_granules: u64::MAX,
        }
    }

    /// Whether `hull` costs no more than the two ranges it covers, with
    /// `used_bytes` between them that may be in use.
    pub(crate) fn pays(
        &self,
        one: &TlbRange,
        other: &TlbRange,
        hull: &TlbRange,
        used_bytes: u64,
    ) -> bool {
        let apart = self.commands(one).saturating_add(self.commands(other));
        let joined = self.commands(hull);
        // Nothing is saved; and one range of two levels loses its hint.
        if joined >= apart || self.command_ns == 0 {
            return false;
        }
        self.with_refills_ns(joined, hull, used_bytes) <= apart.saturating_mul(self.command_ns)
    }

    /// Whether `hull` costs no more than all the ranges it covers: refills are paid
    /// for once, however many gaps there are.
    pub(crate) fn one_pays(&self, ranges: &[TlbRange], hull: &TlbRange, used_bytes: u64) -> bool {
        let (apart, joined) = (self.all_commands(ranges), self.commands(hull));
        joined < apart
            && self.command_ns != 0
            && self.with_refills_ns(joined, hull, used_bytes)
                <= apart.saturating_mul(self.command_ns)
    }

    fn with_refills_ns(&self, commands: u64, hull: &TlbRange, used_bytes: u64) -> u64 {
        let refills = (used_bytes >> hull.granule.lg2()).min(self.in_use_granules);
        (commands.saturating_mul(self.command_ns))
            .saturating_add(refills.saturating_mul(self.refill_ns))
    }

    fn all_commands(&self, ranges: &[TlbRange]) -> u64 {
        (ranges.iter()).fold(0, |sum: u64, range| {
            sum.saturating_add(self.commands(range))
        })
    }

    /// Whether so many commands are more than any one range is given: then the
    /// whole context goes ([`commands_for`]).
    pub(crate) fn too_many(&self, ranges: &[TlbRange]) -> bool {
        let [first, _, ..] = ranges else {
            return false;
        };
        self.range_commands == RangeCommands::Absent
            && self.all_commands(ranges) >= whole_context_from(first.granule)
    }

    fn commands(&self, range: &TlbRange) -> u64 {
        let count = commands_for(range, self.range_commands);
        count.by_address + count.by_context
    }
}
