//! What the registry asks of a domain.

use alloc::sync::Arc;
use core::fmt;

use dmabench_flushq::TlbBackend;
use dmabench_pgtable::{Format, TableMemory};
use dmabench_platform::{CpuMemory, SlotSource};

use super::DomainType;
use crate::{CacheOps, Domain, FlushError, Mode, SwitchError, bounce::BounceDomain};

/// A domain whose strictness can be changed while devices use it.
///
/// # Implementers' duties
///
/// [`domain_type`](Self::domain_type) says what the domain *does*, at any moment,
/// also after a change that failed half-way. It says [`DomainType::Dma`] only
/// while every unmap waits for its invalidation and no buffer unmapped before is
/// still reachable; a domain with anything left in a flush queue is
/// [`DomainType::DmaFq`].
pub trait LiveDomain {
    /// Why a change did not come about.
    type Error: fmt::Debug + fmt::Display;

    /// What the domain does now.
    fn domain_type(&self) -> DomainType;

    /// From strict to lazy, under running requests (L4). Also called on a domain
    /// that is lazy, which it stays: also one whose way back to strict has
    /// failed.
    ///
    /// # Errors
    ///
    /// `Self::Error`; [`domain_type`](Self::domain_type) tells what is.
    fn relax(&self) -> Result<(), Self::Error>;

    /// From lazy to strict, under running requests, by a flush of all that waits
    /// (L4).
    ///
    /// # Errors
    ///
    /// `Self::Error`; [`domain_type`](Self::domain_type) tells what is.
    fn tighten(&self) -> Result<(), Self::Error>;
}

impl<D: LiveDomain> LiveDomain for Arc<D> {
    type Error = D::Error;

    fn domain_type(&self) -> DomainType {
        (**self).domain_type()
    }

    fn relax(&self) -> Result<(), D::Error> {
        (**self).relax()
    }

    fn tighten(&self) -> Result<(), D::Error> {
        (**self).tighten()
    }
}

/// A lazy mode of any kind is [`DomainType::DmaFq`]. Relaxed, a domain gets back
/// the lazy mode it was in before, else [`Mode::lazy`].
impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> LiveDomain for Domain<B, S, F, M> {
    type Error = LiveError;

    fn domain_type(&self) -> DomainType {
        match self.mode() {
            Mode::Passthrough => DomainType::Identity,
            mode if mode.queue().is_some() => DomainType::DmaFq,
            // Something may be left of a lazy mode: until a flush of it has
            // succeeded, this is not yet strict.
            _ if self.queued() != 0 => DomainType::DmaFq,
            _ => DomainType::Dma,
        }
    }

    fn relax(&self) -> Result<(), LiveError> {
        let to = self.lazy_mode().unwrap_or(Mode::lazy());
        Domain::relax(self, to).map_err(LiveError::Relax)
    }

    fn tighten(&self) -> Result<(), LiveError> {
        let flushed = Domain::tighten(self);
        flushed.map(drop).map_err(LiveError::Tighten)
    }
}

/// Always strict: it was made of a strict domain, and gives no way to relax it
/// (U1, U2).
impl<B, S, F, M, H, C> LiveDomain for BounceDomain<B, S, F, M, H, C>
where
    B: TlbBackend,
    S: SlotSource,
    F: Format,
    M: TableMemory,
    H: CpuMemory,
    C: CacheOps,
{
    type Error = LiveError;

    fn domain_type(&self) -> DomainType {
        DomainType::Dma
    }

    fn relax(&self) -> Result<(), LiveError> {
        Err(LiveError::Bounced)
    }

    fn tighten(&self) -> Result<(), LiveError> {
        Ok(())
    }
}

/// Why a domain did not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LiveError {
    /// It is not lazy.
    Relax(SwitchError),
    /// Unmaps are strict from now on, unless the error is
    /// [`FlushError::Reentered`], but what was unmapped before may be reachable.
    Tighten(FlushError),
    /// A domain that bounces is never relaxed.
    Bounced,
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LiveError::Relax(error) => error.fmt(f),
            LiveError::Tighten(error) => error.fmt(f),
            LiveError::Bounced => {
                f.write_str("a domain with bounce pages stays strict: its devices are not trusted")
            }
        }
    }
}

impl core::error::Error for LiveError {}
