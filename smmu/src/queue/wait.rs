//! Bounded waits on the caller's clock.

use dmabench_platform::{TimeNs, Timeout, sync::Backoff};

use crate::SmmuHost;

/// A wait that ends. The clock is read only after the first round was in vain.
#[derive(Debug)]
pub(super) struct BoundedWait {
    timeout: Timeout,
    deadline: Option<TimeNs>,
    backoff: Backoff,
}

impl BoundedWait {
    pub(super) fn new(timeout: Timeout) -> Self {
        BoundedWait {
            timeout,
            deadline: None,
            backoff: Backoff::new(),
        }
    }

    pub(super) fn timeout(&self) -> Timeout {
        self.timeout
    }

    /// Waits a little. `false` once the time is up.
    #[cold]
    pub(super) fn again<H: SmmuHost>(&mut self, host: &H) -> bool {
        let now = host.now();
        let deadline = *self
            .deadline
            .get_or_insert(now.saturating_add_ns(self.timeout.0));
        if now > deadline || self.timeout.0 == 0 {
            return false;
        }
        self.backoff.wait();
        host.relax();
        true
    }
}
