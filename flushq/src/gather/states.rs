//! From removed to released: `Gather` -> `Issued` -> `Complete`.

use core::fmt;

use dmabench_pgtable::DetachedTables;
use dmabench_platform::{SlotGuard, Timeout};

use super::Gather;
use crate::{BackendError, Late, Ticket, TlbBackend};

mod sealed {
    pub trait Sealed {}
    impl<P> Sealed for super::Gather<P> {}
    impl<P> Sealed for &mut super::Gather<P> {}
}

/// A gather, owned or in place.
pub trait GatherHolder: sealed::Sealed {
    /// What the gather holds back besides tables.
    type Payload;

    #[doc(hidden)]
    fn gather(&mut self) -> &mut Gather<Self::Payload>;
}

impl<P> GatherHolder for Gather<P> {
    type Payload = P;
    #[inline]
    fn gather(&mut self) -> &mut Gather<P> {
        self
    }
}

impl<P> GatherHolder for &mut Gather<P> {
    type Payload = P;
    #[inline]
    fn gather(&mut self) -> &mut Gather<P> {
        self
    }
}

#[inline]
pub(super) fn issue<'b, B: TlbBackend, G: GatherHolder>(
    mut holder: G,
    backend: &'b B,
    slot: Option<&mut SlotGuard<'_>>,
    context: &B::Context,
) -> Result<Issued<'b, B, G>, NotIssued<G>> {
    let ranges = &mut holder.gather().ranges;
    ranges.settle(&backend.join_cost());
    let ranges = ranges.as_slice();
    let ticket = if ranges.is_empty() {
        None
    } else {
        match backend.invalidate_and_sync(slot, context, ranges) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                return Err(NotIssued {
                    gather: holder,
                    error,
                });
            }
        }
    };
    Ok(Issued {
        backend,
        ticket,
        gather: holder,
    })
}

/// An invalidation on its way. The gather cannot grow meanwhile.
#[must_use = "nothing is released before `wait`"]
pub struct Issued<'b, B, G> {
    backend: &'b B,
    /// `None`: there was nothing to invalidate.
    ticket: Option<Ticket>,
    gather: G,
}

impl<'b, B: TlbBackend, G: GatherHolder> Issued<'b, B, G> {
    /// Waits until the invalidation has completed.
    ///
    /// # Errors
    ///
    /// [`NotComplete`] with the issued gather. After [`Late::TimedOut`] it may
    /// be waited for again; after [`Late::Failed`] take the gather out with
    /// [`abandon`](Self::abandon) and issue it again.
    #[inline]
    pub fn wait(
        self,
        slot: Option<&mut SlotGuard<'_>>,
        timeout: Timeout,
    ) -> Result<Complete<G>, NotComplete<'b, B, G>> {
        if let Some(ticket) = self.ticket {
            match self.backend.sync_wait(slot, ticket, timeout) {
                // A proof of an earlier point proves nothing here.
                Ok(synced) if synced.up_to() >= ticket => {}
                Ok(_) => {
                    return Err(NotComplete {
                        issued: self,
                        late: Late::TimedOut { after: timeout },
                    });
                }
                Err(late) => return Err(NotComplete { issued: self, late }),
            }
        }
        Ok(Complete {
            gather: self.gather,
        })
    }

    /// The gather back, as before [`issue`](Gather::issue). What was issued
    /// counts for nothing.
    pub fn abandon(self) -> G {
        self.gather
    }

    /// The same without the borrow of the backend, to be kept while the next
    /// requests begin.
    #[inline]
    pub fn detach(self) -> Detached<G> {
        Detached {
            ticket: self.ticket,
            gather: self.gather,
        }
    }
}

/// An invalidation on its way, as [`Issued`], that borrows nothing.
#[must_use = "nothing is released before `attach` and `wait`"]
pub struct Detached<G> {
    ticket: Option<Ticket>,
    gather: G,
}

impl<P> Detached<Gather<P>> {
    /// A look at what is held back.
    pub fn payload(&self) -> &P {
        self.gather.payload()
    }
}

impl<G> Detached<G> {
    /// Back to the backend, to wait.
    ///
    /// # Safety
    ///
    /// `backend` is the one it was issued to: the ticket of another proves
    /// nothing about this invalidation.
    #[inline]
    pub unsafe fn attach<B: TlbBackend>(self, backend: &B) -> Issued<'_, B, G> {
        Issued {
            backend,
            ticket: self.ticket,
            gather: self.gather,
        }
    }
}

impl<G> fmt::Debug for Detached<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl<B, G> fmt::Debug for Issued<'_, B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// A gather whose invalidation has completed.
#[must_use = "take out what may now be released"]
pub struct Complete<G> {
    gather: G,
}

impl<G: GatherHolder> Complete<G> {
    /// As [`Gather::over_bytes`]; 0 after [`take_tables`](Self::take_tables).
    pub fn over_bytes(&mut self) -> u64 {
        self.gather.gather().over_bytes()
    }

    /// The tables that no agent can reach any more, if there are any. The gather
    /// in place is empty afterwards and may be filled again.
    #[inline]
    pub fn take_tables(&mut self) -> Option<DetachedTables> {
        let gather = self.gather.gather();
        gather.ranges.clear();
        if gather.tables.is_empty() {
            return None;
        }
        Some(core::mem::replace(
            &mut gather.tables,
            DetachedTables::new(),
        ))
    }
}

impl<P> Complete<Gather<P>> {
    /// What was held back.
    #[inline]
    pub fn into_payload_and_tables(self) -> (P, DetachedTables) {
        (self.gather.payload, self.gather.tables)
    }
}

impl<P: Default> Complete<&mut Gather<P>> {
    /// What was held back.
    #[inline]
    pub fn take_payload(&mut self) -> P {
        core::mem::take(&mut self.gather.payload)
    }
}

impl<G> fmt::Debug for Complete<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Complete")
    }
}

/// The backend did not take the invalidation; nothing is released.
#[must_use = "the gather in it still holds everything back: issue it again"]
pub struct NotIssued<G> {
    /// The gather, unchanged.
    pub gather: G,
    /// Why.
    pub error: BackendError,
}

/// The invalidation is not known to have completed; nothing is released.
#[must_use = "the gather in it still holds everything back: wait or issue it again"]
pub struct NotComplete<'b, B, G> {
    /// The issued gather: wait again, or [`abandon`](Issued::abandon).
    pub issued: Issued<'b, B, G>,
    /// Why.
    pub late: Late,
}

impl<G> fmt::Debug for NotIssued<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotIssued")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<G> fmt::Display for NotIssued<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<G> core::error::Error for NotIssued<G> {}

impl<B, G> fmt::Debug for NotComplete<'_, B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotComplete")
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}

impl<B, G> fmt::Display for NotComplete<'_, B, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.late.fmt(f)
    }
}

impl<B, G> core::error::Error for NotComplete<'_, B, G> {}
