//! What can go wrong. An error leaves the domain as it was.

use core::fmt;

use dmabench_platform::Iova;

use crate::IovaRange;

/// Why a domain cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `last` is below `first`.
    Inverted,
    /// No whole granule lies between `first` and `last`.
    Empty,
    /// The aperture has more than 2^63 bytes.
    TooLarge,
    /// No memory for the index or the caches.
    NoMemory,
    /// Numbers for domains have run out: 4,194,304 are in use, by domains that
    /// live or that were dropped while ranges of theirs were out.
    TooManyDomains,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inverted => "the aperture ends before it starts; swap `first` and `last`",
            Self::Empty => "no whole granule fits into the aperture; widen it",
            Self::TooLarge => "the aperture is larger than 2^63 bytes; narrow it",
            Self::NoMemory => {
                "no memory for the index and the caches of the domain; free some and try again"
            }
            Self::TooManyDomains => {
                "no number left for another domain; free all ranges before dropping a domain"
            }
        })
    }
}

impl core::error::Error for ConfigError {}

/// Why there is no range for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// A size of 0 pages was asked for.
    ZeroSize,
    /// The limit is below the first whole page of the aperture (bad inputs 38
    /// and 48: a DMA mask no address of the domain fits into).
    LimitBelowStart,
    /// No free run of this size and alignment ends at or below the limit, and
    /// every cache has been looked through.
    NoSpace,
    /// There is space, but no memory for the index to note it down.
    NoMemory,
    /// The guard is of another `Slots` table than the domain.
    OtherSlots,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroSize => "an IOVA range of 0 pages was asked for; ask for at least one",
            Self::LimitBelowStart => {
                "the limit lies below the domain's first address; raise the DMA mask or lower the aperture"
            }
            Self::NoSpace => {
                "no free IOVA range of this size and alignment below the limit; unmap something or raise the limit"
            }
            Self::NoMemory => "no memory for the IOVA index; free some and try again",
            Self::OtherSlots => {
                "the slot guard is of another table than the domain's; use one `Slots` for all parts"
            }
        })
    }
}

impl core::error::Error for AllocError {}

/// A range that was not taken back, handed back.
#[derive(Debug)]
#[must_use = "holds the range that was not freed"]
pub struct FreeError {
    /// The range; still allocated where it came from.
    pub range: IovaRange,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} was not freed: it is of another domain, or the slot guard is of another table; \
             free it where it was allocated",
            self.range
        )
    }
}

impl core::error::Error for FreeError {}

/// Why a region cannot be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// `last` is below `first`.
    Inverted,
    /// Part of the region is reserved already.
    Overlap {
        /// First address of the earlier region, in whole pages.
        first: Iova,
        /// Last address of the earlier region, in whole pages.
        last: Iova,
    },
    /// Part of the region is allocated.
    Busy,
    /// No memory to note the region down.
    NoMemory,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inverted => f.write_str("the region ends before it starts; swap its ends"),
            Self::Overlap { first, last } => {
                write!(
                    f,
                    "{first}..={last} is reserved already; reserve only the rest"
                )
            }
            Self::Busy => f.write_str(
                "part of the region is allocated; reserve regions before the first mapping",
            ),
            Self::NoMemory => f.write_str("no memory to note the region; free some and try again"),
        }
    }
}

impl core::error::Error for ReserveError {}

/// A range that was not exported, handed back.
#[derive(Debug)]
#[must_use = "holds the range that was not exported"]
pub struct IntoRawError {
    /// The range; still a token.
    pub range: IovaRange,
    /// Why.
    pub reason: IntoRawReason,
}

/// Why a range cannot be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntoRawReason {
    /// The range is of another domain.
    OtherDomain,
    /// No memory to note the range in the live map.
    NoMemory,
}

impl fmt::Display for IntoRawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            IntoRawReason::OtherDomain => "it is of another domain; export it there",
            IntoRawReason::NoMemory => "no memory for the live map; free some and try again",
        };
        write!(f, "{:?} was not exported: {why}", self.range)
    }
}

impl core::error::Error for IntoRawError {}

/// Why a raw address was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RawError {
    /// Nothing that starts here is exported: never exported, freed already, or
    /// the address lies inside a range.
    NotExported,
    /// The address lies in a reserved region.
    Reserved,
    /// Exported with another size.
    WrongSize {
        /// The size that was exported, in pages.
        exported_pages: u64,
    },
    /// The guard is of another `Slots` table than the domain.
    OtherSlots,
}

impl fmt::Display for RawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotExported => f.write_str(
                "no exported range starts at this address; it was freed already or never exported",
            ),
            Self::Reserved => f.write_str("the address lies in a reserved region; it is not yours"),
            Self::WrongSize { exported_pages } => {
                write!(f, "the range was exported with {exported_pages} pages; pass that size")
            }
            Self::OtherSlots => f.write_str(
                "the slot guard is of another table than the domain's; use one `Slots` for all parts",
            ),
        }
    }
}

impl core::error::Error for RawError {}
