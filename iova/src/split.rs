//! Cutting ranges into halves and putting them together again.
//!
//! Only inside a leaf of the index: there pages can be given back in other
//! portions than they were taken in, without memory. That is what requests that
//! are mapped together need (Fast & Safe, SOSP'24, gives each descriptor 64 pages
//! in a row).

use crate::{IovaDomain, IovaRange, domain::class_of, index::PORTIONS_LG2};

impl IovaDomain {
    /// The largest range that [`split`](Self::split) cuts, in pages.
    pub const SPLIT_MAX_PAGES: u64 = 1 << PORTIONS_LG2;

    /// Cuts a range of `2^n` pages, 2 to [`SPLIT_MAX_PAGES`](Self::SPLIT_MAX_PAGES),
    /// aligned to its size, into its lower and its upper half.
    ///
    /// # Errors
    ///
    /// The range, if it is none of those or of another domain.
    #[inline]
    pub fn split(&self, range: IovaRange) -> Result<(IovaRange, IovaRange), IovaRange> {
        let Some((address, size)) = self.key.open(&range) else {
            return Err(range);
        };
        let page = address >> self.granule().lg2();
        if !(2..=Self::SPLIT_MAX_PAGES).contains(&size)
            || !size.is_power_of_two()
            || page & (size - 1) != 0
        {
            return Err(range);
        }
        let half = size / 2;
        let middle = address + (half << self.granule().lg2());
        Ok((self.key.token(address, half), self.key.token(middle, half)))
    }

    /// Puts two neighbours together: of the same `2^n` pages (or fewer, where a
    /// cached size was rounded up to that), the lower one aligned to twice as
    /// many. The result has all pages of both.
    ///
    /// # Errors
    ///
    /// Both ranges, if they are not such neighbours or of another domain.
    #[inline]
    pub fn join(
        &self,
        lower: IovaRange,
        upper: IovaRange,
    ) -> Result<IovaRange, (IovaRange, IovaRange)> {
        let (Some(low), Some(high)) = (self.key.open(&lower), self.key.open(&upper)) else {
            return Err((lower, upper));
        };
        let lg2 = self.granule().lg2();
        let (low_page, high_page) = (low.0 >> lg2, high.0 >> lg2);
        let (size, other) = (self.held_pages(low.1), self.held_pages(high.1));
        if size != other
            || !size.is_power_of_two()
            || 2 * size > Self::SPLIT_MAX_PAGES
            || low_page & (2 * size - 1) != 0
            || high_page != low_page + size
        {
            return Err((lower, upper));
        }
        Ok(self.key.token(low.0, 2 * size))
    }

    /// The same range for a request of fewer pages that holds as many
    /// ([`held_pages`](Self::held_pages)).
    ///
    /// # Errors
    ///
    /// The range, if `size_pages` holds more or fewer, or it is of another domain.
    #[inline]
    pub fn resize(&self, range: IovaRange, size_pages: u64) -> Result<IovaRange, IovaRange> {
        match self.key.open(&range) {
            Some((address, size))
                if size_pages != 0 && self.held_pages(size_pages) == self.held_pages(size) =>
            {
                Ok(self.key.token(address, size_pages))
            }
            _ => Err(range),
        }
    }

    /// Pages that a range of `size_pages` holds: cached sizes are rounded up to a
    /// power of two.
    #[inline]
    pub fn held_pages(&self, size_pages: u64) -> u64 {
        let class = class_of(size_pages);
        if class < self.class_count {
            1 << class
        } else {
            size_pages
        }
    }
}
