//! The truth table: who says what, and what comes of it.

use core::fmt;

use super::DomainType;
use crate::Mode;

/// How a translated domain unmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strictness {
    /// Invalidated before the unmap returns.
    Strict,
    /// Invalidated later, many at once.
    Lazy,
}

/// Whether a device's addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Translation {
    /// They are.
    #[default]
    Translated,
    /// The device uses physical addresses and reaches all memory.
    Identity,
}

/// What the administrator said for the whole system, at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SystemDefaults {
    /// What devices get that nobody has an opinion about. Linux:
    /// `iommu.passthrough`.
    pub translation: Translation,
    /// How translated domains unmap, if the command line says. Linux:
    /// `iommu.strict`.
    pub command_line: Option<Strictness>,
}

/// What an SMMU instance, or its driver, has to say about the domains behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstanceVote {
    /// An opinion of the driver on strictness.
    pub strictness: Option<Strictness>,
    /// Whether a flush queue makes sense: one command invalidates a whole
    /// domain. Without it no domain is lazy. (Linux:
    /// `IOMMU_CAP_DEFERRED_FLUSH`.)
    pub deferred_flush: bool,
}

impl Default for InstanceVote {
    /// No opinion, and able to flush a whole domain, as any SMMUv3 is.
    fn default() -> Self {
        InstanceVote {
            strictness: None,
            deferred_flush: true,
        }
    }
}

impl InstanceVote {
    /// What two instances under one group say together: as in
    /// [`DeviceVote::join`].
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        InstanceVote {
            strictness: join_strictness(self.strictness, other.strictness),
            deferred_flush: self.deferred_flush && other.deferred_flush,
        }
    }
}

/// What a device, or the group of several, has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceVote {
    /// The device is external, or for another reason suspected to be hostile.
    pub untrusted: bool,
    /// What its driver asks for. `Strict` is a demand; `Lazy` is a request, which
    /// any other opinion overrules.
    pub strictness: Option<Strictness>,
    /// It cannot work untranslated (its memory is out of its reach, say).
    pub needs_translation: bool,
    /// It cannot work translated (its firmware uses physical addresses, say).
    pub needs_identity: bool,
}

impl DeviceVote {
    /// Asks for lazy unmapping.
    pub const LAZY: Self = DeviceVote {
        strictness: Some(Strictness::Lazy),
        ..Self::NONE
    };
    /// Demands strict unmapping.
    pub const STRICT: Self = DeviceVote {
        strictness: Some(Strictness::Strict),
        ..Self::NONE
    };
    /// Cannot work translated.
    pub const IDENTITY: Self = DeviceVote {
        needs_identity: true,
        ..Self::NONE
    };
    /// Suspected to be hostile.
    pub const UNTRUSTED: Self = DeviceVote {
        untrusted: true,
        ..Self::NONE
    };
    /// No opinion.
    pub const NONE: Self = DeviceVote {
        untrusted: false,
        strictness: None,
        needs_translation: false,
        needs_identity: false,
    };

    /// What two devices of one group say together, in any order and grouping:
    /// one strict vote is the group's, a lazy vote is the group's only if every
    /// device has it, and any suspicion or need of one is that of all.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        DeviceVote {
            untrusted: self.untrusted || other.untrusted,
            strictness: join_strictness(self.strictness, other.strictness),
            needs_translation: self.needs_translation || other.needs_translation,
            needs_identity: self.needs_identity || other.needs_identity,
        }
    }
}

const fn join_strictness(a: Option<Strictness>, b: Option<Strictness>) -> Option<Strictness> {
    match (a, b) {
        (Some(Strictness::Strict), _) | (_, Some(Strictness::Strict)) => Some(Strictness::Strict),
        (Some(Strictness::Lazy), Some(Strictness::Lazy)) => Some(Strictness::Lazy),
        _ => None,
    }
}

/// What a group gets. There are four, from safest to fastest:
/// [`UNTRUSTED`](Self::UNTRUSTED), [`STRICT`](Self::STRICT),
/// [`LAZY`](Self::LAZY), [`IDENTITY`](Self::IDENTITY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The kind of domain.
    pub domain_type: DomainType,
    /// Buffers that do not fill their granules go through bounce pages (L3, U1).
    pub bounce: bool,
    /// Nobody may relax it while the devices are attached (U2).
    pub pinned: bool,
}

impl Decision {
    /// Translated, strict, bounced, and it stays so.
    pub const UNTRUSTED: Self = Decision {
        domain_type: DomainType::Dma,
        bounce: true,
        pinned: true,
    };
    /// Translated and strict.
    pub const STRICT: Self = Decision::plain(DomainType::Dma);
    /// Translated, with a flush queue.
    pub const LAZY: Self = Decision::plain(DomainType::DmaFq);
    /// Not translated.
    pub const IDENTITY: Self = Decision::plain(DomainType::Identity);

    pub(super) const fn plain(domain_type: DomainType) -> Self {
        Decision {
            domain_type,
            bounce: false,
            pinned: false,
        }
    }

    /// The mode of a domain that does as decided, with Linux's figures for the
    /// flush queue. [`bounce`](Self::bounce) is a layer above the domain.
    pub fn mode(&self) -> Mode {
        match self.domain_type {
            DomainType::Identity => Mode::Passthrough,
            DomainType::Dma => Mode::Strict,
            DomainType::DmaFq => Mode::lazy(),
        }
    }
}

/// Why a group cannot have a domain, or not the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// An untrusted device is in the group: translated, strict and bounced, or
    /// not attached.
    Untrusted,
    /// A device of the group demands strict unmapping.
    StrictMember,
    /// A device of the group cannot work translated.
    NeedsIdentity,
    /// A device of the group cannot work untranslated.
    NeedsTranslation,
    /// An SMMU of the group cannot flush a whole domain at once.
    NoDeferredFlush,
}

impl Refusal {
    /// The errno that fits, as Linux numbers them: `EPERM` for untrusted devices,
    /// `EOPNOTSUPP` without deferred flush, else `EINVAL`.
    pub const fn errno(&self) -> i32 {
        match self {
            Refusal::Untrusted => super::registry::EPERM,
            Refusal::NoDeferredFlush => super::registry::EOPNOTSUPP,
            _ => super::registry::EINVAL,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Untrusted => {
                "an untrusted device is in the group, which stays translated, strict and bounced: remove the device first"
            }
            Refusal::StrictMember => {
                "a device of the group demands strict unmapping: change its vote or remove it"
            }
            Refusal::NeedsIdentity => {
                "a device of the group cannot work translated: use `identity` or remove it"
            }
            Refusal::NeedsTranslation => {
                "a device of the group cannot work untranslated: use `DMA` or `DMA-FQ`"
            }
            Refusal::NoDeferredFlush => {
                "an SMMU of the group cannot flush a whole domain at once: use `DMA`"
            }
        })
    }
}

impl core::error::Error for Refusal {}

/// The truth table. Devices of one group and instances under it are
/// [joined](DeviceVote::join) first.
///
/// From the first line that fits:
///
/// | who | says | outcome |
/// |---|---|---|
/// | device | untrusted, but needs identity | refused |
/// | device | untrusted | [`Decision::UNTRUSTED`] |
/// | device | needs identity, but also translation, or strictness | refused |
/// | device | needs identity | [`Decision::IDENTITY`] |
/// | device | strict | [`Decision::STRICT`] |
/// | system | identity, and the device does not need translation | [`Decision::IDENTITY`] |
/// | command line, SMMU | strict | [`Decision::STRICT`] |
/// | command line, SMMU, device | lazy, and the SMMU can | [`Decision::LAZY`] |
/// | nobody | | [`Decision::STRICT`] |
///
/// The rules for strictness are those of the patches of June 2021 ("iommu:
/// Enable devices to request non-strict DMA", D. Anderson): strict if anybody
/// says strict, else lazy if anybody says lazy, else strict; lazy by request of
/// the devices only if all of a group ask. The rest is as in Linux 7.2
/// (`iommu_get_default_domain_type` in `drivers/iommu/iommu.c`), but for two
/// contradictions, where Linux logs and takes identity, and this refuses: a
/// device that needs identity in a group with one that needs translation, or
/// with one that demands strictness.
///
/// # Errors
///
/// [`Refusal`]: no domain serves this group; its drivers must not bind.
pub const fn decide(
    system: SystemDefaults,
    instance: InstanceVote,
    device: DeviceVote,
) -> Result<Decision, Refusal> {
    use Strictness::{Lazy, Strict};
    if device.untrusted {
        return if device.needs_identity {
            Err(Refusal::Untrusted)
        } else {
            Ok(Decision::UNTRUSTED)
        };
    }
    if device.needs_identity {
        return match device.strictness {
            _ if device.needs_translation => Err(Refusal::NeedsTranslation),
            Some(Strict) => Err(Refusal::StrictMember),
            _ => Ok(Decision::IDENTITY),
        };
    }
    match (device.strictness, system.translation) {
        (Some(Strict), _) => return Ok(Decision::STRICT),
        (_, Translation::Identity) if !device.needs_translation => return Ok(Decision::IDENTITY),
        _ => {}
    }
    match (system.command_line, instance.strictness, device.strictness) {
        (Some(Strict), _, _) | (_, Some(Strict), _) => Ok(Decision::STRICT),
        (Some(Lazy), _, _) | (_, Some(Lazy), _) | (_, _, Some(Lazy)) if instance.deferred_flush => {
            Ok(Decision::LAZY)
        }
        _ => Ok(Decision::STRICT),
    }
}

/// Whether an administrator may choose `target` for a group, whatever the
/// defaults are. What [`decide`] decides is always admitted.
///
/// # Errors
///
/// [`Refusal`].
pub const fn admit(
    instance: InstanceVote,
    device: DeviceVote,
    target: DomainType,
) -> Result<Decision, Refusal> {
    let strict_member = matches!(device.strictness, Some(Strictness::Strict));
    match target {
        _ if device.untrusted => match target {
            DomainType::Dma if !device.needs_identity => Ok(Decision::UNTRUSTED),
            _ => Err(Refusal::Untrusted),
        },
        DomainType::Identity if device.needs_translation => Err(Refusal::NeedsTranslation),
        DomainType::Dma | DomainType::DmaFq if device.needs_identity => Err(Refusal::NeedsIdentity),
        DomainType::Identity | DomainType::DmaFq if strict_member => Err(Refusal::StrictMember),
        DomainType::DmaFq if !instance.deferred_flush => Err(Refusal::NoDeferredFlush),
        _ => Ok(Decision::plain(target)),
    }
}
