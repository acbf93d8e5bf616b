//! The depot: full magazines that slots hand on to one another, per class.

use crate::magazine::{CAPACITY, List, Magazine};

/// Empty magazines a class keeps at hand.
const SPARES: usize = 8;

/// Magazines of one class that no slot has.
#[derive(Debug)]
pub(crate) struct Depot {
    full: List,
    empty: List,
    /// The fewest full magazines since the last trim: those nobody needed.
    fewest: usize,
    /// The most full magazines there may be.
    room: usize,
}

impl Depot {
    pub(crate) fn new(room: usize) -> Self {
        Depot {
            full: List::of_full(),
            empty: List::of_empty(),
            fewest: 0,
            room,
        }
    }

    /// Full magazines.
    pub(crate) fn len(&self) -> usize {
        self.full.len()
    }

    /// Pages in the full magazines of a depot of this class.
    pub(crate) fn pages(&self, class: usize) -> u64 {
        ((self.len() * CAPACITY) as u64) << class
    }

    /// All magazines.
    pub(crate) fn magazines(&self) -> usize {
        self.full.len() + self.empty.len()
    }

    /// Takes a full magazine.
    pub(crate) fn take_full(&mut self) -> Option<Magazine> {
        let magazine = self.full.pop()?;
        self.fewest = self.fewest.min(self.full.len());
        Some(magazine)
    }

    /// Whether another full magazine may come.
    pub(crate) fn has_room(&self) -> bool {
        self.full.len() < self.room
    }

    /// Takes in a full magazine.
    pub(crate) fn put_full(&mut self, magazine: Magazine) {
        self.full.push(magazine);
    }

    /// An empty magazine, kept or fresh; `None` if there is no memory.
    pub(crate) fn take_empty(&mut self) -> Option<Magazine> {
        self.empty.pop().or_else(Magazine::allocate)
    }

    /// Takes in an empty magazine, or none.
    pub(crate) fn put_empty(&mut self, magazine: Magazine) {
        if magazine.exists() && self.empty.len() < SPARES {
            self.empty.push(magazine);
        }
    }

    /// Ends a period: as many full magazines as nobody needed in it.
    pub(crate) fn end_period(&mut self) -> usize {
        core::mem::replace(&mut self.fewest, self.full.len())
    }

    /// After a trim: what is left counts for the next period; empty magazines
    /// are let go.
    pub(crate) fn start_period(&mut self) {
        self.fewest = self.full.len();
        self.empty = List::of_empty();
    }
}
