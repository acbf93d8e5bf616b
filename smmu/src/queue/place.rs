//! Positions, and the word that hands them out.

/// The word of reservations: position in `[63:9]`, "the last command is a
/// sync" in bit 8, commands that nobody will publish yet in `[7:0]`.
///
/// 55 bits of position last for more than ten years at a command per 15 ns, so a
/// position never comes back and a stale compare-exchange cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u64);

impl Place {
    /// The most commands that may wait for another's publication.
    pub(super) const PENDING_MAX: u64 = 0xff;
    const SYNCED: u64 = 1 << 8;

    /// Nothing pending; a sync with nothing before it is over.
    pub(super) const fn start(position: u64) -> Self {
        Place(position << 9 | Self::SYNCED)
    }

    /// The next position.
    #[inline(always)]
    pub(super) const fn position(self) -> u64 {
        self.0 >> 9
    }

    /// Commands before it that are left to a later publisher.
    #[inline(always)]
    pub(super) const fn pending(self) -> u64 {
        self.0 & Self::PENDING_MAX
    }

    /// Whether the command before it is a sync.
    #[inline(always)]
    pub(super) const fn synced(self) -> bool {
        self.0 & Self::SYNCED != 0
    }

    /// After `count` more commands that nobody publishes yet; `None` if too many
    /// would wait.
    #[inline(always)]
    pub(super) const fn extended(self, count: u64) -> Option<Self> {
        if self.pending() + count > Self::PENDING_MAX {
            return None;
        }
        Some(Place(
            (self.position() + count) << 9 | (self.pending() + count),
        ))
    }

    /// After `count` more commands, of which the last is a sync or not, all of
    /// them and those before to be published by the caller.
    #[inline(always)]
    pub(super) const fn published(self, count: u64, sync: bool) -> Self {
        let synced = if count == 0 { self.synced() } else { sync };
        Place((self.position() + count) << 9 | (synced as u64) << 8)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let start = Place::start(u64::MAX >> 10);
        assert!(start.synced() && start.pending() == 0);
        let more = start.extended(255).unwrap();
        assert_eq!(more.pending(), 255);
        assert!(!more.synced());
        assert_eq!(more.position(), start.position() + 255);
        assert_eq!(more.extended(1), None, "would spill into the sync bit");
        let out = more.published(1, true);
        assert_eq!((out.pending(), out.synced()), (0, true));
        assert!(out.published(0, false).synced(), "nothing was added");
        assert!(!out.published(3, false).synced());
    }
}
