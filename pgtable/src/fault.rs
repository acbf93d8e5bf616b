//! Places where a checker's variant that must fail departs from the code that
//! ships. Outside `--cfg loom` tests the answer is a constant "no".

/// What to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(all(test, loom)), allow(dead_code))]
pub(crate) enum Fault {
    /// Install a new table by a store instead of a compare-exchange.
    InstallByStore,
    /// Take a table out without waiting for open sections.
    NoGracePeriod,
    /// Link a new table where one is parked, as if the entry were empty.
    IgnoreParked,
    /// Clear a dirty mark by an OR instead of a compare-exchange.
    ClearByOr,
    /// Take a leaf out by a load and a store instead of an exchange.
    TakeByStore,
    /// Break a leaf by an exchange, whatever stands there.
    BreakBySwap,
}

#[cfg(not(all(test, loom)))]
#[inline(always)]
pub(crate) const fn broken(_fault: Fault) -> bool {
    false
}

#[cfg(all(test, loom))]
pub(crate) use under_test::{broken, with};

#[cfg(all(test, loom))]
mod under_test {
    extern crate std;
    use core::cell::Cell;

    use super::Fault;

    // loom runs all threads of a model on the thread of the test.
    std::thread_local! {
        static NOW: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(crate) fn broken(fault: Fault) -> bool {
        NOW.get() == Some(fault)
    }

    /// Runs `f` with the fault in place.
    pub(crate) fn with(fault: Fault, f: impl FnOnce()) {
        NOW.set(Some(fault));
        f();
        NOW.set(None);
    }
}
