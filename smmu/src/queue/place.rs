//! Positions with what is to be known about the command before them.

/// A position in `[63:3]` and three bits. Two kinds of words hold one:
///
/// * the slot of a batch's first command: where the batch ends, once it is
///   *ready*, and whether it is *urgent*; or that the *baton* lies here;
/// * how far the queue is published.
///
/// 61 bits of position last for a thousand years at a command per 15 ns, so a
/// position never comes back and a stale compare-exchange cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u64);

impl Place {
    const SYNCED: u64 = 1;
    const URGENT: u64 = 1 << 1;
    const BATON: u64 = 1 << 2;

    /// The end of a batch.
    #[inline(always)]
    pub(super) const fn batch_end(position: u64, synced: bool, urgent: bool) -> Self {
        Place(position << 3 | (urgent as u64) << 1 | synced as u64)
    }

    /// Everything before is published.
    #[inline(always)]
    pub(super) const fn published(position: u64, synced: bool) -> Self {
        Place(position << 3 | synced as u64)
    }

    /// The baton lies at `position`.
    #[inline(always)]
    pub(super) const fn baton(position: u64) -> Self {
        Place(position << 3 | Self::BATON)
    }

    #[inline(always)]
    pub(super) const fn position(self) -> u64 {
        self.0 >> 3
    }

    /// Whether the command before it is a sync.
    #[inline(always)]
    pub(super) const fn synced(self) -> bool {
        self.0 & Self::SYNCED != 0
    }

    /// Whether the batch is to be published at once.
    #[inline(always)]
    pub(super) const fn urgent(self) -> bool {
        self.0 & Self::URGENT != 0
    }

    #[inline(always)]
    pub(super) const fn is_baton(self) -> bool {
        self.0 & Self::BATON != 0
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        for position in [0, 1, 255, u64::MAX >> 3] {
            for synced in [false, true] {
                for urgent in [false, true] {
                    let end = Place::batch_end(position, synced, urgent);
                    let read = (end.position(), end.synced(), end.urgent());
                    assert_eq!(read, (position, synced, urgent));
                    assert!(!end.is_baton());
                }
                let published = Place::published(position, synced);
                assert!(!published.is_baton() && published.synced() == synced);
            }
            let baton = Place::baton(position);
            assert!(baton.is_baton() && baton.position() == position);
        }
    }
}
