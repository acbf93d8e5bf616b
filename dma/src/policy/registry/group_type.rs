//! A group's `type` file, and what it means for a domain with drivers bound.

use super::{
    GroupId, LiveError, MakeDomain, Registry, TightenError, WriteError, WriteResult,
    error::NotReady,
};
use crate::policy::{DomainType, LiveDomain, Refusal, TypeRequest, admit};

impl<M: MakeDomain> Registry<M> {
    /// What reading the group's `type` gives, without the newline: the type of
    /// the domain as it is at this moment, or `unknown` while there is none.
    /// `None` for a group that does not exist.
    pub fn read_type(&self, group: GroupId) -> Option<&'static str> {
        let at = self.find_group(group).ok()?;
        Some(match &self.groups[at].settled {
            Some(settled) => settled.domain.domain_type().word(),
            None => "unknown",
        })
    }

    /// What writing to the group's `type` does: see [`TypeRequest::parse`] for
    /// the words. As in Linux 7.2 (`iommu_group_store_type` in
    /// `drivers/iommu/iommu.c`):
    ///
    /// * `DMA-FQ` on a group that is `DMA` is carried out live, with drivers bound
    ///   or not;
    /// * everything else with a driver bound is refused, even the word the group
    ///   has;
    /// * with none bound the domain is replaced. `auto` is what the group would
    ///   have if nobody had written anything.
    ///
    /// Beyond Linux, no choice overrules a device that is untrusted or demands
    /// strictness, live or not (U2), and a group whose SMMU cannot flush a whole
    /// domain is not quietly left strict.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; but for [`WriteError::Live`] and
    /// [`WriteError::NotSwitched`] nothing has changed.
    pub fn write_type(&mut self, group: GroupId, written: &[u8]) -> WriteResult<M> {
        let request = TypeRequest::parse(written).map_err(WriteError::Word)?;
        let at = self
            .find_group(group)
            .map_err(|_| WriteError::Unknown(group))?;
        let (instance, device) = match self.votes(group, None) {
            Ok(votes) => votes,
            Err(_) => return Err(WriteError::NotSettled(group)),
        };
        let Some(settled) = &self.groups[at].settled else {
            return Err(WriteError::NotSettled(group));
        };
        let has = settled.domain.domain_type();
        // A lazy one may be half-way back to strict; with no driver bound the
        // request takes that back, too.
        let bound = self.is_bound(group);
        let live = has == DomainType::Dma || has == DomainType::DmaFq && !bound;
        if request == TypeRequest::Type(DomainType::DmaFq) && live {
            // Pinned for as long as anything is attached that was bound while an
            // untrusted device was in the group.
            if settled.pinned {
                return Err(WriteError::Refused(Refusal::Untrusted));
            }
            admit(instance, device, DomainType::DmaFq).map_err(WriteError::Refused)?;
            settled.domain.relax().map_err(WriteError::Live)?;
            return match settled.domain.domain_type() {
                DomainType::DmaFq => {
                    self.groups[at].choice = Some(DomainType::DmaFq);
                    Ok(())
                }
                is => Err(WriteError::NotSwitched { is }),
            };
        }
        if bound {
            return Err(WriteError::InUse { group, has });
        }
        let choice = match request {
            TypeRequest::Auto => None,
            TypeRequest::Type(target) => {
                admit(instance, device, target).map_err(WriteError::Refused)?;
                Some(target)
            }
        };
        let plan = self.plan(group, choice, None).map_err(|why| match why {
            NotReady::Refused(refusal) => WriteError::Refused(refusal),
            NotReady::OutOfMemory => WriteError::OutOfMemory,
            _ => WriteError::NotSettled(group),
        })?;
        self.carry_out(at, plan).map_err(WriteError::Domain)
    }

    /// Makes a lazy group strict, live, by a flush of what waits. Linux has no
    /// such way; [`write_type`](Self::write_type) refuses it as Linux does.
    ///
    /// # Errors
    ///
    /// [`TightenError`].
    pub fn tighten(&mut self, group: GroupId) -> Result<(), TightenError<LiveError<M>>> {
        let at = self
            .find_group(group)
            .map_err(|_| TightenError::Unknown(group))?;
        let Some(settled) = &self.groups[at].settled else {
            return Err(TightenError::NotSettled(group));
        };
        match settled.domain.domain_type() {
            DomainType::Identity => return Err(TightenError::Identity(group)),
            DomainType::Dma => {}
            DomainType::DmaFq => settled.domain.tighten().map_err(TightenError::Live)?,
        }
        match settled.domain.domain_type() {
            DomainType::Dma => {
                self.groups[at].choice = Some(DomainType::Dma);
                Ok(())
            }
            is => Err(TightenError::NotSwitched { is }),
        }
    }
}
