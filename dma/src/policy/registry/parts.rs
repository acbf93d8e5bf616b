//! What the embedder tells the registry, and makes for it.

use alloc::vec::Vec;
use core::fmt;

use crate::policy::{Decision, DeviceVote, LiveDomain};

/// The embedder's number for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// The embedder's number for an SMMU (a phandle, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);

/// A group. Numbers are given in the order in which groups appear, and not
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// What is known about a device when it appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    pub(super) id: DeviceId,
    pub(super) instance: InstanceId,
    pub(super) streams: Vec<u32>,
    alias: Option<u64>,
    pub(super) vote: DeviceVote,
}

impl DeviceInfo {
    /// Device `id` behind the SMMU `instance`, there or not yet, which sees its
    /// accesses as coming from `streams`.
    pub fn new(id: DeviceId, instance: InstanceId, streams: Vec<u32>) -> Self {
        DeviceInfo {
            id,
            instance,
            streams,
            alias: None,
            vote: DeviceVote::NONE,
        }
    }

    /// Devices with the same `alias` are one group though their streams differ:
    /// they reach each other without passing the SMMU (functions below a PCI
    /// bridge without access control).
    #[must_use]
    pub fn alias(mut self, alias: u64) -> Self {
        self.alias = Some(alias);
        self
    }

    /// What the device has to say. Default: nothing.
    #[must_use]
    pub fn vote(mut self, vote: DeviceVote) -> Self {
        self.vote = vote;
        self
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The SMMU it is behind.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What it has to say.
    pub fn device_vote(&self) -> DeviceVote {
        self.vote
    }

    /// The streams its accesses carry.
    pub fn streams(&self) -> &[u32] {
        &self.streams
    }

    pub(super) fn grouped_with(&self, other: &DeviceInfo) -> bool {
        let alias = self.alias.is_some() && self.alias == other.alias;
        alias
            || self.instance == other.instance
                && self.streams.iter().any(|s| other.streams.contains(s))
    }
}

/// Makes domains for groups: the embedder's side of a
/// [`Registry`](super::Registry).
pub trait MakeDomain {
    /// A domain, or a handle to it.
    type Domain: LiveDomain;
    /// Why none was made.
    type Error: fmt::Debug + fmt::Display;

    /// A domain of the type that `decision` says, for devices behind all of
    /// `instances`. No device of the group has a driver meanwhile; a domain the
    /// group had before is dropped afterwards.
    ///
    /// # Errors
    ///
    /// `Self::Error`; the group has no domain, and the next
    /// [`bind`](super::Registry::bind) tries again.
    fn make_domain(
        &mut self,
        group: GroupId,
        decision: Decision,
        instances: &[InstanceId],
    ) -> Result<Self::Domain, Self::Error>;
}
