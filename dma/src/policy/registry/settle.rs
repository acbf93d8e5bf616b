//! The domain that a group should have, from the votes of all its members, and how
//! it comes to have it.

use alloc::vec::Vec;

use super::{
    AddError, BindError, DeviceInfo, Group, GroupId, InstanceId, LiveError, MakeDomain, Registry,
    error::{NotReady, Plan},
};
use crate::policy::{Decision, DeviceVote, DomainType, InstanceVote, LiveDomain, admit, decide};

/// The type is not kept here: the domain knows it.
pub(super) struct Settled<D> {
    pub(super) domain: D,
    pub(super) bounce: bool,
    pub(super) pinned: bool,
    instances: Vec<InstanceId>,
}

impl<D: LiveDomain> Settled<D> {
    pub(super) fn decision(&self) -> Decision {
        Decision {
            domain_type: self.domain.domain_type(),
            bounce: self.bounce,
            pinned: self.pinned,
        }
    }

    fn is(&self, plan: &Plan) -> bool {
        self.decision() == plan.decision && self.instances == plan.instances
    }
}

impl<M: MakeDomain> Registry<M> {
    /// Lets `info` into group `at`, which has a driver bound, if the domain can
    /// serve it.
    pub(super) fn make_room(
        &mut self,
        at: usize,
        info: &DeviceInfo,
    ) -> Result<(), AddError<LiveError<M>>> {
        let group = self.groups[at].id;
        let in_use = AddError::GroupInUse { group };
        let plan = match self.plan(group, self.groups[at].choice, Some(info)) {
            Ok(plan) => plan,
            Err(NotReady::Refused(refusal)) => return Err(AddError::Refused { group, refusal }),
            Err(NotReady::OutOfMemory) => return Err(AddError::OutOfMemory),
            Err(NotReady::Enumerating | NotReady::NoInstance(_)) => return Err(in_use),
        };
        let Some(settled) = &self.groups[at].settled else {
            return Err(in_use);
        };
        let bounced = settled.bounce || !plan.decision.bounce;
        let pinned = settled.pinned || !plan.decision.pinned;
        if !bounced || !pinned || plan.instances != settled.instances {
            return Err(in_use);
        }
        match (settled.domain.domain_type(), plan.decision.domain_type) {
            (has, needs) if has == needs => {}
            // Stricter than it need be: stays.
            (DomainType::Dma, DomainType::DmaFq) => {}
            (DomainType::DmaFq, DomainType::Dma) => {
                settled
                    .domain
                    .tighten()
                    .map_err(|error| AddError::Live { group, error })?;
                if settled.domain.domain_type() != DomainType::Dma {
                    return Err(in_use);
                }
            }
            _ => return Err(in_use),
        }
        self.groups[at].choice = plan.choice;
        Ok(())
    }

    /// Gives group `at`, which has no driver bound, the domain it should have.
    pub(super) fn settle(&mut self, at: usize) -> Result<(), BindError<M::Error>> {
        let Group { id, choice, .. } = self.groups[at];
        let plan = self.plan(id, choice, None);
        let settled = match plan {
            Ok(plan) => self.carry_out(at, plan).map_err(BindError::Domain),
            Err(why) => Err(why.into()),
        };
        if settled.is_err() {
            // What it had was for other members.
            self.groups[at].settled = None;
        }
        settled
    }

    /// Makes what is planned, unless it is there. On an error all stays.
    pub(super) fn carry_out(&mut self, at: usize, plan: Plan) -> Result<(), M::Error> {
        let group = &mut self.groups[at];
        if !group.settled.as_ref().is_some_and(|has| has.is(&plan)) {
            let domain = self
                .maker
                .make_domain(group.id, plan.decision, &plan.instances)?;
            group.settled = Some(Settled {
                domain,
                bounce: plan.decision.bounce,
                pinned: plan.decision.pinned,
                instances: plan.instances,
            });
        }
        group.choice = plan.choice;
        Ok(())
    }

    /// What `group` should have, if `choice` is the administrator's and `extra` a
    /// member too.
    pub(super) fn plan(
        &self,
        group: GroupId,
        choice: Option<DomainType>,
        extra: Option<&DeviceInfo>,
    ) -> Result<Plan, NotReady> {
        if !self.enumerated {
            return Err(NotReady::Enumerating);
        }
        let (instance, device) = self.votes(group, extra)?;
        let base = decide(self.system, instance, device);
        // A choice that a newer member rules out lapses.
        let chosen = choice.and_then(|target| {
            let decision = admit(instance, device, target).ok()?;
            Some((decision, choice))
        });
        let (decision, choice) = match chosen {
            Some(chosen) => chosen,
            None => (base.map_err(NotReady::Refused)?, None),
        };
        let mut instances = Vec::new();
        for info in self.members(group).chain(extra) {
            if let Err(place) = instances.binary_search(&info.instance) {
                if instances.try_reserve(1).is_err() {
                    return Err(NotReady::OutOfMemory);
                }
                instances.insert(place, info.instance);
            }
        }
        Ok(Plan {
            decision,
            choice,
            instances,
        })
    }

    /// What the SMMUs and the devices of `group` (and `extra`) say together.
    pub(super) fn votes(
        &self,
        group: GroupId,
        extra: Option<&DeviceInfo>,
    ) -> Result<(InstanceVote, DeviceVote), NotReady> {
        let mut sum: Option<(InstanceVote, DeviceVote)> = None;
        for info in self.members(group).chain(extra) {
            let instance = self
                .instances
                .binary_search_by_key(&info.instance, |(id, _)| *id)
                .map_err(|_| NotReady::NoInstance(info.instance))?;
            let (_, instance) = self.instances[instance];
            sum = Some(match sum {
                None => (instance, info.vote),
                Some(sum) => (sum.0.join(instance), sum.1.join(info.vote)),
            });
        }
        // A group without members does not exist.
        Ok(sum.unwrap_or_default())
    }
}
