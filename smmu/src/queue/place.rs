//! Positions with what is to be known about the command before them.

/// A position in `[63:2]`, "somebody sees to it" in bit 1, "the command before it
/// is a sync" in bit 0. Two kinds of words hold one:
///
/// * the end of a batch that is ready; *held* if its producer stays until it is
///   published;
/// * how far the queue is published; *held* while somebody has claimed what comes
///   next.
///
/// 62 bits of position last for two thousand years at a command per 15 ns, so a
/// position never comes back and a stale compare-exchange cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u64);

impl Place {
    const SYNCED: u64 = 1;
    const HELD: u64 = 1 << 1;

    /// The end of a batch.
    #[inline(always)]
    pub(super) const fn batch_end(position: u64, synced: bool, held: bool) -> Self {
        Place(position << 2 | (held as u64) << 1 | synced as u64)
    }

    /// Everything before is published, and nobody has claimed what comes next.
    #[inline(always)]
    pub(super) const fn published(position: u64, synced: bool) -> Self {
        Place(position << 2 | synced as u64)
    }

    /// The same, claimed.
    pub(super) const fn claimed(self) -> Self {
        Place(self.0 | Self::HELD)
    }

    #[inline(always)]
    pub(super) const fn position(self) -> u64 {
        self.0 >> 2
    }

    /// Whether the command before it is a sync.
    #[inline(always)]
    pub(super) const fn synced(self) -> bool {
        self.0 & Self::SYNCED != 0
    }

    /// Whether somebody sees to it.
    #[inline(always)]
    pub(super) const fn held(self) -> bool {
        self.0 & Self::HELD != 0
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        for position in [0, 1, 255, u64::MAX >> 2] {
            for synced in [false, true] {
                for held in [false, true] {
                    let end = Place::batch_end(position, synced, held);
                    let read = (end.position(), end.synced(), end.held());
                    assert_eq!(read, (position, synced, held));
                }
                let published = Place::published(position, synced);
                assert!(!published.held());
                let claimed = published.claimed();
                let read = (claimed.position(), claimed.synced(), claimed.held());
                assert_eq!(read, (position, synced, true));
            }
        }
    }
}
