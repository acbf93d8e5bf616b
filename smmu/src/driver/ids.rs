//! ASIDs and VMIDs: numbers that caches are tagged with.

use alloc::{vec, vec::Vec};

/// Numbers from 1 up. A number that is given back is the last to be used again;
/// it must be given back only after everything tagged with it was invalidated.
#[derive(Debug)]
pub(super) struct Ids {
    taken: Vec<u64>,
    /// Where the search begins.
    next: u32,
    count: u32,
}

impl Ids {
    /// Of `bits` bits, 8 or 16. Number 0 stays for the driver's own use.
    pub(super) fn new(bits: u32) -> Self {
        let count = 1 << bits.min(16);
        let mut taken = vec![0; (count as usize).div_ceil(64)];
        taken[0] = 1;
        Ids {
            taken,
            next: 1,
            count,
        }
    }

    /// A free number, if there is one.
    pub(super) fn take(&mut self) -> Option<u16> {
        let free = (self.next..self.count)
            .chain(1..self.next)
            .find(|n| self.taken[*n as usize / 64] >> (n % 64) & 1 == 0)?;
        self.taken[free as usize / 64] |= 1 << (free % 64);
        self.next = if free + 1 == self.count { 1 } else { free + 1 };
        Some(free as u16)
    }

    /// Gives a number back.
    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert!(id != 0);
        self.taken[usize::from(id) / 64] &= !(1 << (id % 64));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_end_and_come_back_last() {
        let mut ids = Ids::new(8);
        let all: Vec<_> = core::iter::from_fn(|| ids.take()).collect();
        assert_eq!(all, (1..=255).collect::<Vec<_>>());
        ids.give_back(7);
        ids.give_back(3);
        assert_eq!(
            (ids.take(), ids.take(), ids.take()),
            (Some(3), Some(7), None)
        );
        ids.give_back(200);
        ids.give_back(9);
        assert_eq!(ids.take(), Some(9), "searched from the last one on");
        assert_eq!(Ids::new(16).count, 1 << 16);
    }
}
