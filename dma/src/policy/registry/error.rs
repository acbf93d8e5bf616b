//! What the registry refuses, with the errno an embedder's file would return.

use core::fmt;

use super::{DeviceId, GroupId, InstanceId};
use crate::policy::{Decision, DomainType, Refusal, UnknownWord};

// Linux's numbers (`include/uapi/asm-generic/errno*.h`).
pub(in crate::policy) const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
pub(in crate::policy) const EINVAL: i32 = 22;
const EIO: i32 = 5;
pub(in crate::policy) const EOPNOTSUPP: i32 = 95;
const EPROBE_DEFER: i32 = 517;

/// Why an instance was not added. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceError {
    /// It is there.
    Exists(InstanceId),
    /// No memory.
    OutOfMemory,
}

impl fmt::Display for InstanceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstanceError::Exists(id) => write!(f, "SMMU {} is there already", id.0),
            InstanceError::OutOfMemory => OUT_OF_MEMORY.fmt(f),
        }
    }
}

impl core::error::Error for InstanceError {}

const OUT_OF_MEMORY: &str = "no memory for the registry: free some and try again";

/// Why a device was not added. No device and no group has changed.
///
/// `L` is the error of [`LiveDomain`](crate::policy::LiveDomain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError<L> {
    /// It is there.
    Exists(DeviceId),
    /// It has no stream: no SMMU can tell its accesses.
    NoStreams(DeviceId),
    /// Its group has a driver bound, and the group's domain is not what the
    /// group needs with this device in it, which cannot be changed live: unbind
    /// the group's drivers first. Until then the device must not do DMA.
    GroupInUse {
        /// The group it belongs to.
        group: GroupId,
    },
    /// Its group has a driver bound, and no domain serves the group with this
    /// device in it.
    Refused {
        /// The group it belongs to.
        group: GroupId,
        /// Why.
        refusal: Refusal,
    },
    /// It would make one group of two, one of which has a driver bound.
    JoinsGroups {
        /// The one.
        first: GroupId,
        /// The other.
        second: GroupId,
    },
    /// Its group has to become strict, and that failed.
    Live {
        /// The group it belongs to.
        group: GroupId,
        /// Why.
        error: L,
    },
    /// No memory.
    OutOfMemory,
}

impl<L: fmt::Display> fmt::Display for AddError<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddError::Exists(id) => write!(f, "device {} is there already", id.0),
            AddError::NoStreams(id) => write!(
                f,
                "device {} has no stream: give the identifiers its accesses carry",
                id.0
            ),
            AddError::GroupInUse { group } => write!(
                f,
                "group {} has a driver bound and cannot take this device as it is: unbind its drivers, and keep the device from doing DMA until then",
                group.0
            ),
            AddError::Refused { group, refusal } => {
                write!(f, "group {} cannot take this device: {refusal}", group.0)
            }
            AddError::JoinsGroups { first, second } => write!(
                f,
                "the device makes one group of {} and {}: unbind their drivers first",
                first.0, second.0
            ),
            AddError::Live { group, error } => write!(
                f,
                "group {} did not become strict, as this device needs: {error}",
                group.0
            ),
            AddError::OutOfMemory => OUT_OF_MEMORY.fmt(f),
        }
    }
}

impl<L: fmt::Debug + fmt::Display> core::error::Error for AddError<L> {}

/// Why a driver may not bind, now or ever.
///
/// `E` is the error of [`MakeDomain`](super::MakeDomain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindError<E> {
    /// No such device.
    Unknown(DeviceId),
    /// It has a driver.
    Bound(DeviceId),
    /// Devices are still being found: call
    /// [`enumerated`](super::Registry::enumerated), then try again.
    Enumerating,
    /// An SMMU of the group is not there yet: try again when it is.
    NoInstance(InstanceId),
    /// No domain serves the group.
    Refused(Refusal),
    /// The group's domain could not be made; another try may succeed.
    Domain(E),
    /// No memory.
    OutOfMemory,
}

impl<E> BindError<E> {
    /// Whether a later try may succeed without anybody changing his mind.
    pub const fn is_deferral(&self) -> bool {
        matches!(self, BindError::Enumerating | BindError::NoInstance(_))
    }

    /// The errno that fits: `EPROBE_DEFER` for a deferral.
    pub const fn errno(&self) -> i32 {
        match self {
            BindError::Unknown(_) => ENODEV,
            BindError::Bound(_) => EBUSY,
            BindError::Enumerating | BindError::NoInstance(_) => EPROBE_DEFER,
            BindError::Refused(refusal) => refusal.errno(),
            BindError::Domain(_) | BindError::OutOfMemory => ENOMEM,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BindError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Unknown(id) => write!(f, "no device {}: add it first", id.0),
            BindError::Bound(id) => write!(f, "device {} has a driver", id.0),
            BindError::Enumerating => {
                f.write_str("devices are still being found: try again when all are there")
            }
            BindError::NoInstance(id) => {
                write!(f, "SMMU {} is not there yet: try again when it is", id.0)
            }
            BindError::Refused(refusal) => refusal.fmt(f),
            BindError::Domain(error) => error.fmt(f),
            BindError::OutOfMemory => OUT_OF_MEMORY.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for BindError<E> {}

/// Why a driver was not unbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnbindError {
    /// No such device.
    Unknown(DeviceId),
    /// It has no driver.
    NotBound(DeviceId),
}

impl fmt::Display for UnbindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnbindError::Unknown(id) => write!(f, "no device {}", id.0),
            UnbindError::NotBound(id) => write!(f, "device {} has no driver", id.0),
        }
    }
}

impl core::error::Error for UnbindError {}

/// Why a device was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveError {
    /// No such device.
    Unknown(DeviceId),
    /// It has a driver: unbind it first.
    Bound(DeviceId),
}

impl fmt::Display for RemoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemoveError::Unknown(id) => write!(f, "no device {}", id.0),
            RemoveError::Bound(id) => {
                write!(f, "device {} has a driver: unbind it first", id.0)
            }
        }
    }
}

impl core::error::Error for RemoveError {}

/// Why a group's type was not changed.
///
/// `E` is the error of [`MakeDomain`](super::MakeDomain), `L` that of
/// [`LiveDomain`](crate::policy::LiveDomain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError<E, L> {
    /// Not one of the four words.
    Word(UnknownWord),
    /// No such group.
    Unknown(GroupId),
    /// The group has no domain yet.
    NotSettled(GroupId),
    /// The change needs another domain, and a driver is bound.
    InUse {
        /// The group.
        group: GroupId,
        /// What it has, and keeps.
        has: DomainType,
    },
    /// A member of the group rules it out.
    Refused(Refusal),
    /// The live change failed; [`read_type`](super::Registry::read_type) tells
    /// what the domain does.
    Live(L),
    /// The domain reported success, and does something else.
    NotSwitched {
        /// What it does.
        is: DomainType,
    },
    /// The new domain could not be made; the old one stays.
    Domain(E),
    /// No memory.
    OutOfMemory,
}

impl<E, L> WriteError<E, L> {
    /// The errno that fits. Linux has the first four: `EINVAL` for a word it does
    /// not know and for a group without a domain, `EPERM` with a driver bound.
    pub const fn errno(&self) -> i32 {
        match self {
            WriteError::Word(_) | WriteError::NotSettled(_) => EINVAL,
            WriteError::Unknown(_) => ENOENT,
            WriteError::InUse { .. } => EPERM,
            WriteError::Refused(refusal) => refusal.errno(),
            WriteError::Live(_) | WriteError::NotSwitched { .. } => EIO,
            WriteError::Domain(_) | WriteError::OutOfMemory => ENOMEM,
        }
    }
}

impl<E: fmt::Display, L: fmt::Display> fmt::Display for WriteError<E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Word(word) => word.fmt(f),
            WriteError::Unknown(group) => write!(f, "no group {}", group.0),
            WriteError::NotSettled(group) => {
                write!(f, "group {} has no domain yet: wait for its SMMU", group.0)
            }
            WriteError::InUse { group, has } => write!(
                f,
                "group {} has a driver bound and keeps {has}; only DMA to DMA-FQ needs no unbinding",
                group.0
            ),
            WriteError::Refused(refusal) => refusal.fmt(f),
            WriteError::Live(error) => write!(f, "the domain did not change: {error}"),
            WriteError::NotSwitched { is } => {
                write!(
                    f,
                    "the domain reported success but is {is}: a bug of its own"
                )
            }
            WriteError::Domain(error) => error.fmt(f),
            WriteError::OutOfMemory => OUT_OF_MEMORY.fmt(f),
        }
    }
}

impl<E, L> core::error::Error for WriteError<E, L>
where
    E: fmt::Debug + fmt::Display,
    L: fmt::Debug + fmt::Display,
{
}

/// Why a group was not made strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TightenError<L> {
    /// No such group.
    Unknown(GroupId),
    /// It has no domain yet.
    NotSettled(GroupId),
    /// It is not translated, which cannot be changed live.
    Identity(GroupId),
    /// The domain did not change; [`read_type`](super::Registry::read_type)
    /// tells what it does.
    Live(L),
    /// The domain reported success, and does something else.
    NotSwitched {
        /// What it does.
        is: DomainType,
    },
}

impl<L: fmt::Display> fmt::Display for TightenError<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TightenError::Unknown(group) => write!(f, "no group {}", group.0),
            TightenError::NotSettled(group) => {
                write!(f, "group {} has no domain yet", group.0)
            }
            TightenError::Identity(group) => write!(
                f,
                "group {} is not translated: unbind its drivers and write DMA",
                group.0
            ),
            TightenError::Live(error) => write!(f, "the domain did not change: {error}"),
            TightenError::NotSwitched { is } => {
                write!(
                    f,
                    "the domain reported success but is {is}: a bug of its own"
                )
            }
        }
    }
}

impl<L: fmt::Debug + fmt::Display> core::error::Error for TightenError<L> {}

/// What keeps a group from having a domain.
pub(super) enum NotReady {
    Enumerating,
    NoInstance(InstanceId),
    Refused(Refusal),
    OutOfMemory,
}

impl<E> From<NotReady> for BindError<E> {
    fn from(why: NotReady) -> Self {
        match why {
            NotReady::Enumerating => BindError::Enumerating,
            NotReady::NoInstance(id) => BindError::NoInstance(id),
            NotReady::Refused(refusal) => BindError::Refused(refusal),
            NotReady::OutOfMemory => BindError::OutOfMemory,
        }
    }
}

/// What a group should have.
pub(super) struct Plan {
    pub(super) decision: Decision,
    /// The administrator's choice, if it still stands.
    pub(super) choice: Option<DomainType>,
    /// The group's SMMUs, sorted.
    pub(super) instances: alloc::vec::Vec<InstanceId>,
}
