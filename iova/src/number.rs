//! Numbers for domains, so that a token knows where it is from.
//!
//! A bitmap that grows by pieces as more domains live at once, and never
//! shrinks: 2 KiB for each 16,384.

use alloc::vec::Vec;
// Not the checkers' atomics: a static outlives one run of a model.
use core::{
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

use crate::{ConfigError, range::MAX_DOMAINS};

static NUMBERS: Numbers = Numbers::new();

/// A number no token of a living or leaking domain carries.
pub(crate) fn take() -> Result<u32, ConfigError> {
    NUMBERS.take()
}

/// Takes a number back, of a domain that has no token out.
pub(crate) fn give_back(number: u32) {
    NUMBERS.give_back(number);
}

const WORDS: usize = 256;
const PER_PIECE: u32 = 64 * WORDS as u32;
const PIECES: usize = (MAX_DOMAINS / PER_PIECE) as usize;

/// A set bit is a number in use.
type Piece = [AtomicU64; WORDS];

struct Numbers {
    /// Those in front are there, the rest null.
    pieces: [AtomicPtr<Piece>; PIECES],
    /// Where to look first: numbers below are likely in use.
    hint: AtomicU32,
}

impl Numbers {
    const fn new() -> Self {
        Numbers {
            pieces: [const { AtomicPtr::new(ptr::null_mut()) }; PIECES],
            hint: AtomicU32::new(0),
        }
    }

    fn take(&self) -> Result<u32, ConfigError> {
        // From the hint to the end of what is there, then from the start.
        let hint = (self.hint.load(Ordering::Relaxed) / PER_PIECE) as usize;
        for at in (hint..PIECES).chain(0..hint) {
            let Some(piece) = self.piece(at) else {
                continue;
            };
            if let Some(number) = self.take_from(at, piece) {
                return Ok(number);
            }
        }
        for at in 0..PIECES {
            let piece = match self.piece(at) {
                Some(piece) => piece,
                None => self.add_piece(at)?,
            };
            if let Some(number) = self.take_from(at, piece) {
                return Ok(number);
            }
        }
        Err(ConfigError::TooManyDomains)
    }

    fn take_from(&self, at: usize, piece: &Piece) -> Option<u32> {
        let start = at as u32 * PER_PIECE;
        let hint = self.hint.load(Ordering::Relaxed);
        let first = hint.saturating_sub(start).min(PER_PIECE - 1) as usize / 64;
        for word in (first..WORDS).chain(0..first) {
            let taken = piece[word].try_update(Ordering::Acquire, Ordering::Relaxed, |bits| {
                (bits != u64::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(bits) = taken {
                let number = start + 64 * word as u32 + bits.trailing_ones();
                self.hint.store(number, Ordering::Relaxed);
                return Some(number);
            }
        }
        None
    }

    fn give_back(&self, number: u32) {
        if let Some(piece) = self.piece((number / PER_PIECE) as usize) {
            let bit = number % PER_PIECE;
            // Release: what the old domain did comes before what the next of
            // this number does.
            piece[bit as usize / 64].fetch_and(!(1 << (bit % 64)), Ordering::Release);
            self.hint.fetch_min(number, Ordering::Relaxed);
        }
    }

    fn piece(&self, at: usize) -> Option<&Piece> {
        // SAFETY: null, or a piece that `add_piece` published with release; it
        // is never freed nor moved, and only shared references to it exist.
        unsafe { self.pieces[at].load(Ordering::Acquire).as_ref() }
    }

    #[cold]
    fn add_piece(&self, at: usize) -> Result<&Piece, ConfigError> {
        let mut memory: Vec<Piece> = Vec::new();
        memory
            .try_reserve_exact(1)
            .map_err(|_| ConfigError::NoMemory)?;
        memory.push([const { AtomicU64::new(0) }; WORDS]);
        // Once published it belongs to everybody, for ever.
        let mut memory = ManuallyDrop::new(memory);
        let new = memory.as_mut_ptr();
        let piece = match self.pieces[at].compare_exchange(
            ptr::null_mut(),
            new,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => new,
            Err(theirs) => {
                drop(ManuallyDrop::into_inner(memory));
                theirs
            }
        };
        // SAFETY: this one was just published and is not touched through
        // `memory` again; another's is as in `piece`.
        Ok(unsafe { &*piece })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_overlapping_lives_are_used_again() {
        let numbers = Numbers::new();
        let mut alive = [numbers.take().unwrap(), numbers.take().unwrap()];
        // The older goes first: it is never the newest that is given back.
        for _ in 0..100_000 {
            numbers.give_back(alive[0]);
            alive = [alive[1], numbers.take().unwrap()];
            assert_ne!(alive[0], alive[1]);
            assert!(alive[1] < 3, "{alive:?}");
        }
    }

    #[test]
    fn every_number_can_be_had_once() {
        let numbers = Numbers::new();
        for expected in 0..MAX_DOMAINS {
            assert_eq!(numbers.take(), Ok(expected));
        }
        assert_eq!(numbers.take(), Err(ConfigError::TooManyDomains));
        for number in [0, 63, 64, PER_PIECE, MAX_DOMAINS - 1] {
            numbers.give_back(number);
            assert_eq!(numbers.take(), Ok(number));
            assert_eq!(numbers.take(), Err(ConfigError::TooManyDomains));
        }
    }

    #[test]
    fn threads_never_hold_the_same_number() {
        let numbers = Numbers::new();
        let held: Vec<_> = (0..64).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let mine = [numbers.take().unwrap(), numbers.take().unwrap()];
                        for number in mine {
                            let others = held[number as usize].fetch_add(1, Ordering::Relaxed);
                            assert_eq!(others, 0, "{number}");
                        }
                        for number in mine {
                            held[number as usize].fetch_sub(1, Ordering::Relaxed);
                            numbers.give_back(number);
                        }
                    }
                });
            }
        });
    }
}
