//! Numbers for domains, so that a token knows where it is from.

// Not the checkers' atomics: a static outlives one run of a model.
use core::sync::atomic::{AtomicU32, Ordering};

use crate::range::MAX_DOMAINS;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number no token of a living or leaking domain carries.
pub(crate) fn take() -> Option<u32> {
    NEXT.try_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
        (next < MAX_DOMAINS).then_some(next + 1)
    })
    .ok()
}

/// Takes a number back, of a domain that has no token out. Only the newest can
/// be given out again; that keeps tests and fuzzers, which make and drop one
/// domain after the other, from running out.
pub(crate) fn give_back(number: u32) {
    let _ = NEXT.compare_exchange(number + 1, number, Ordering::Relaxed, Ordering::Relaxed);
}
