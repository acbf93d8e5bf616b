//! What the registry asks of a domain.

use alloc::sync::Arc;
use core::fmt;

use super::DomainType;

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

    /// From strict to lazy, under running requests (L4).
    ///
    /// # Errors
    ///
    /// `Self::Error`; [`domain_type`](Self::domain_type) tells what is.
    fn relax(&self) -> Result<(), Self::Error>;

    /// From lazy to strict, by a flush of all that waits (L4).
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
