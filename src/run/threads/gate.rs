//! A gate at which threads wait until all are there.

use std::sync::{Condvar, Mutex, PoisonError};

/// Opened once, for all that wait and all that come later.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    /// What those that wait are told: the common start, or that there is none.
    open: Option<Option<u64>>,
}

impl Gate {
    /// Waits for the gate to open, and says when that was; `None` if there is
    /// nothing to start.
    pub(super) fn pass(&self) -> Option<u64> {
        // A panic elsewhere leaves plain numbers.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        self.changed.notify_all();
        loop {
            if let Some(open) = state.open {
                return open;
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens as soon as `threads` wait; `now` is the common start.
    pub(super) fn open(&self, threads: usize, now: impl FnOnce() -> u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting < threads {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.open = Some(Some(now()));
        self.changed.notify_all();
    }

    /// Sends everybody home.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = Some(None);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_before_all_are_there() {
        let gate = Gate::default();
        let there = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    there.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert_eq!(gate.pass(), Some(4));
                });
            }
            gate.open(4, || there.load(std::sync::atomic::Ordering::SeqCst) as u64);
        });
        assert_eq!(gate.pass(), Some(4), "who comes late passes too");
    }

    #[test]
    fn an_abandoned_gate_lets_all_go() {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.pass());
            gate.abandon();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
