//! Levels of lookup, numbered as Arm numbers them.

use core::fmt;

/// A level of lookup (Arm DDI 0487, D8.2): 3 is the last, which holds pages;
/// the first is between -1 and 3, depending on the input size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// The last level: pages.
    pub const LAST: Level = Level(3);

    /// Level `number`; `None` unless it is -1 to 3.
    pub const fn new(number: i8) -> Option<Self> {
        if number >= -1 && number <= 3 {
            Some(Level(number))
        } else {
            None
        }
    }

    /// The number: -1 to 3.
    #[inline]
    pub const fn get(self) -> i8 {
        self.0
    }

    /// For callers whose arithmetic yields -1 to 3.
    #[inline]
    pub(crate) const fn from_i32(number: i32) -> Self {
        debug_assert!(number >= -1 && number <= 3);
        Level(number as i8)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
