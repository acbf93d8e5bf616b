//! SMMU instances, devices and groups, in whatever order they appear.
//!
//! A **group** is the set of devices that the SMMU cannot keep apart: they share
//! a stream, or reach each other without passing it. All of a group have one
//! domain, so what one of them needs decides for all.
//!
//! Two phases. Until [`Registry::enumerated`] devices and instances come as the
//! firmware's description is walked, and no driver binds. After it each group
//! whose SMMUs are there is *settled*: its domain is made, from the votes of all
//! its members. So neither the order of arrival nor which driver probes first
//! has a say: the objection of June 2021 to letting drivers ask for laziness.
//!
//! A device that appears later (a card plugged in) joins its group's votes. With
//! no driver bound the group is settled anew. With one bound, the group can only
//! go from lazy to strict, which is done before the device is let in; if it
//! needs more than that, the device is refused until the drivers are unbound.
//! Nothing is ever relaxed by an arrival or a removal while a driver is bound.

use alloc::vec::Vec;
use core::fmt;

use super::{Decision, DomainType, InstanceVote, LiveDomain, SystemDefaults};

mod error;
mod group_type;
mod parts;
mod settle;

pub use error::{
    AddError, BindError, InstanceError, RemoveError, TightenError, UnbindError, WriteError,
};
pub(super) use error::{EINVAL, EOPNOTSUPP, EPERM};
pub use parts::{DeviceId, DeviceInfo, GroupId, InstanceId, MakeDomain};
use settle::Settled;

type LiveError<M> = <<M as MakeDomain>::Domain as LiveDomain>::Error;
type AddResult<M> = Result<GroupId, AddError<LiveError<M>>>;
type WriteResult<M> = Result<(), WriteError<<M as MakeDomain>::Error, LiveError<M>>>;

/// The registry. See the [module](super).
///
/// Calls take `&mut self`: an embedder with concurrent probes holds it under a
/// lock. Requests need only the domain, which may be an `Arc` held elsewhere;
/// they run on while its group's type is changed.
///
/// The embedder points a device's streams to the domain after
/// [`bind`](Self::bind), and away from it before [`unbind`](Self::unbind). In
/// between, nobody replaces the domain.
pub struct Registry<M: MakeDomain> {
    system: SystemDefaults,
    maker: M,
    enumerated: bool,
    /// Sorted by number, as are the devices and the groups.
    instances: Vec<(InstanceId, InstanceVote)>,
    devices: Vec<Member>,
    groups: Vec<Group<M::Domain>>,
    next_group: u64,
}

struct Member {
    info: DeviceInfo,
    group: GroupId,
    bound: bool,
}

struct Group<D> {
    id: GroupId,
    /// What the administrator wrote last, unless it was `auto` or is overruled.
    choice: Option<DomainType>,
    settled: Option<Settled<D>>,
}

impl<M: MakeDomain> Registry<M> {
    /// An empty registry, in the phase of enumeration.
    pub fn new(system: SystemDefaults, maker: M) -> Self {
        Registry {
            system,
            maker,
            enumerated: false,
            instances: Vec::new(),
            devices: Vec::new(),
            groups: Vec::new(),
            next_group: 0,
        }
    }

    /// What makes the domains.
    pub fn maker(&self) -> &M {
        &self.maker
    }

    /// The firmware's description has been walked: every device it names has
    /// been added. Settles all groups whose SMMUs are there. A second call does
    /// nothing.
    pub fn enumerated(&mut self) {
        self.enumerated = true;
        for at in 0..self.groups.len() {
            // What keeps one from a domain is told to whoever binds.
            let _ = self.settle(at);
        }
    }

    /// An SMMU appears, for good. Groups that waited for it are settled.
    ///
    /// # Errors
    ///
    /// [`InstanceError`]; nothing has changed.
    pub fn add_instance(
        &mut self,
        id: InstanceId,
        vote: InstanceVote,
    ) -> Result<(), InstanceError> {
        let Err(place) = self.instances.binary_search_by_key(&id, |(id, _)| *id) else {
            return Err(InstanceError::Exists(id));
        };
        if self.instances.try_reserve(1).is_err() {
            return Err(InstanceError::OutOfMemory);
        }
        self.instances.insert(place, (id, vote));
        for at in 0..self.groups.len() {
            if self.groups[at].settled.is_none() {
                let _ = self.settle(at);
            }
        }
        Ok(())
    }

    /// A device appears, and with it, maybe, a group. Its SMMU may come later.
    ///
    /// # Errors
    ///
    /// [`AddError`]; the device is not part of any group, and must not do DMA.
    pub fn add_device(&mut self, info: DeviceInfo) -> AddResult<M> {
        let Err(place) = self.find_device(info.id) else {
            return Err(AddError::Exists(info.id));
        };
        if info.streams.is_empty() {
            return Err(AddError::NoStreams(info.id));
        }
        if self.devices.try_reserve(1).is_err() || self.groups.try_reserve(1).is_err() {
            return Err(AddError::OutOfMemory);
        }
        // Its group: the first of those it touches, which it makes one.
        let touched = |member: &&Member| member.info.grouped_with(&info);
        let Some(group) = self.devices.iter().filter(touched).map(|m| m.group).min() else {
            let id = GroupId(self.next_group);
            self.next_group += 1;
            self.groups.push(Group {
                id,
                choice: None,
                settled: None,
            });
            self.insert(place, info, id);
            let _ = self.settle(self.groups.len() - 1);
            return Ok(id);
        };
        let others = self.devices.iter().filter(touched).map(|m| m.group);
        if let Some(second) = others.clone().find(|other| *other != group) {
            let mut all = others.clone();
            if all.any(|group| self.is_bound(group)) {
                return Err(AddError::JoinsGroups {
                    first: group,
                    second,
                });
            }
            while let Some(other) = self
                .devices
                .iter()
                .find(|member| member.group != group && member.info.grouped_with(&info))
                .map(|member| member.group)
            {
                self.merge(group, other);
            }
        }
        let Ok(at) = self.find_group(group) else {
            unreachable!("every member's group exists");
        };
        if self.is_bound(group) {
            self.make_room(at, &info)?;
        }
        self.insert(place, info, group);
        if !self.is_bound(group) {
            let _ = self.settle(at);
        }
        Ok(group)
    }

    /// A device is gone. With no driver left bound in its group the group is
    /// settled anew; a pin ends with the attachment of the device that needed it
    /// and of those that were bound beside it.
    ///
    /// # Errors
    ///
    /// [`RemoveError`]; nothing has changed.
    pub fn remove_device(&mut self, id: DeviceId) -> Result<(), RemoveError> {
        let place = self.find_device(id).map_err(|_| RemoveError::Unknown(id))?;
        if self.devices[place].bound {
            return Err(RemoveError::Bound(id));
        }
        let group = self.devices.remove(place).group;
        if let Ok(at) = self.find_group(group) {
            if self.members(group).next().is_none() {
                self.groups.remove(at);
            } else if !self.is_bound(group) {
                let _ = self.settle(at);
            }
        }
        Ok(())
    }

    /// A driver takes a device: the domain to use, and how.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the device has no driver.
    pub fn bind(&mut self, id: DeviceId) -> Result<(&M::Domain, Decision), BindError<M::Error>> {
        let place = self.find_device(id).map_err(|_| BindError::Unknown(id))?;
        if self.devices[place].bound {
            return Err(BindError::Bound(id));
        }
        let group = self.devices[place].group;
        let Ok(at) = self.find_group(group) else {
            return Err(BindError::Unknown(id));
        };
        // With another driver bound the domain stays as it is, and serves all
        // members: else they had been refused.
        if !self.is_bound(group) {
            self.settle(at)?;
        }
        let Some(settled) = &self.groups[at].settled else {
            return Err(BindError::Unknown(id));
        };
        self.devices[place].bound = true;
        Ok((&settled.domain, settled.decision()))
    }

    /// A driver has left a device. The last of a group lets it be settled anew.
    ///
    /// # Errors
    ///
    /// [`UnbindError`]; nothing has changed.
    pub fn unbind(&mut self, id: DeviceId) -> Result<(), UnbindError> {
        let place = self.find_device(id).map_err(|_| UnbindError::Unknown(id))?;
        if !self.devices[place].bound {
            return Err(UnbindError::NotBound(id));
        }
        self.devices[place].bound = false;
        let group = self.devices[place].group;
        if !self.is_bound(group)
            && let Ok(at) = self.find_group(group)
        {
            let _ = self.settle(at);
        }
        Ok(())
    }

    /// The group of a device.
    pub fn group_of(&self, id: DeviceId) -> Option<GroupId> {
        let place = self.find_device(id).ok()?;
        Some(self.devices[place].group)
    }

    /// The devices of a group, by number.
    pub fn members(&self, group: GroupId) -> impl Iterator<Item = &DeviceInfo> {
        self.devices
            .iter()
            .filter(move |member| member.group == group)
            .map(|member| &member.info)
    }

    /// What a group has; `None` while it has no domain.
    pub fn decision(&self, group: GroupId) -> Option<Decision> {
        Some(self.settled(group)?.decision())
    }

    /// A group's domain, if it has one.
    pub fn domain(&self, group: GroupId) -> Option<&M::Domain> {
        Some(&self.settled(group)?.domain)
    }

    fn insert(&mut self, place: usize, info: DeviceInfo, group: GroupId) {
        let member = Member {
            info,
            group,
            bound: false,
        };
        self.devices.insert(place, member);
    }

    /// Makes one group of two without drivers. A choice stays only if it was
    /// both's.
    fn merge(&mut self, into: GroupId, from: GroupId) {
        for member in &mut self.devices {
            if member.group == from {
                member.group = into;
            }
        }
        if let Ok(at) = self.find_group(from) {
            let gone = self.groups.remove(at);
            if let Ok(at) = self.find_group(into)
                && self.groups[at].choice != gone.choice
            {
                self.groups[at].choice = None;
            }
        }
    }

    fn is_bound(&self, group: GroupId) -> bool {
        self.devices
            .iter()
            .any(|member| member.group == group && member.bound)
    }

    fn settled(&self, group: GroupId) -> Option<&Settled<M::Domain>> {
        let at = self.find_group(group).ok()?;
        self.groups[at].settled.as_ref()
    }

    fn find_device(&self, id: DeviceId) -> Result<usize, usize> {
        self.devices
            .binary_search_by_key(&id, |member| member.info.id)
    }

    fn find_group(&self, id: GroupId) -> Result<usize, usize> {
        self.groups.binary_search_by_key(&id, |group| group.id)
    }
}

impl<M: MakeDomain> fmt::Debug for Registry<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("system", &self.system)
            .field("enumerated", &self.enumerated)
            .field("instances", &self.instances.len())
            .field("devices", &self.devices.len())
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}
