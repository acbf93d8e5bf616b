//! Who may be lazy: the choice between strict, lazy, bounced and untranslated,
//! made once for each group of devices, whatever the order they appear in.
//!
//! * [`decide`] is the truth table: system defaults, the SMMU and the devices
//!   each have a say, and the outcome is one of four [`Decision`]s.
//! * [`Registry`] knows SMMU instances, devices and groups. All may appear in
//!   any order; a group's domain exists before the first driver binds.
//! * [`MatchTable`] turns `compatible` strings of a device tree into votes.
//! * [`Registry::write_type`] and [`Registry::read_type`] are Linux's
//!   `/sys/kernel/iommu_groups/<id>/type`: its words, what it allows with a
//!   driver bound, its error numbers.
//! * [`LiveDomain`] carries a change out; [`Domain`](crate::Domain) implements
//!   it.
//!
//! ```
//! use dmabench_dma::policy::{
//!     Decision, DeviceId, DeviceInfo, DeviceVote, Entry, GroupId, InstanceId,
//!     InstanceVote, MakeDomain, MatchTable, Registry, SystemDefaults,
//! };
//! use dmabench_dma::{Domain, DomainConfig, DomainError, Mode};
//! use dmabench_flushq::CountingBackend;
//! use dmabench_platform::{Fences, Slots};
//! use std::sync::Arc;
//!
//! // What is known about devices: the SD host of this board may be lazy.
//! const TABLE: MatchTable<'static, DeviceVote> = match MatchTable::new(&[
//!     Entry { compatible: "qcom,sc7180-sdhci", value: DeviceVote::LAZY },
//! ]) {
//!     Ok(table) => table,
//!     Err(_) => panic!("a duplicate"),
//! };
//!
//! struct Maker(Arc<Slots>);
//! impl MakeDomain for Maker {
//!     type Domain = Arc<Domain>;
//!     type Error = DomainError;
//!     fn make_domain(
//!         &mut self,
//!         _: GroupId,
//!         decision: Decision,
//!         _: &[InstanceId],
//!     ) -> Result<Arc<Domain>, DomainError> {
//!         let backend = CountingBackend::new(&self.0);
//!         let config = DomainConfig::new(decision.mode());
//!         Domain::new(config, self.0.clone(), backend, ()).map(Arc::new)
//!     }
//! }
//!
//! let slots = Arc::new(Slots::new(8, Fences::detect())?);
//! let mut registry = Registry::new(SystemDefaults::default(), Maker(slots));
//! // The device comes before its SMMU.
//! let (card, smmu) = (DeviceId(7), InstanceId(1));
//! let vote = TABLE.lookup(["qcom,sc7180-sdhci", "qcom,sdhci-msm-v5"]);
//! registry.add_device(
//!     DeviceInfo::new(card, smmu, [0x60].into()).vote(vote.copied().unwrap_or_default()),
//! )?;
//! registry.enumerated();
//! assert!(registry.bind(card).unwrap_err().is_deferral());
//! registry.add_instance(smmu, InstanceVote::default())?;
//!
//! let group = registry.group_of(card).unwrap();
//! assert_eq!(registry.read_type(group), Some("DMA-FQ"));
//! let (domain, decision) = registry.bind(card)?;
//! assert_eq!(decision, Decision::LAZY);
//! assert_eq!(domain.mode(), Mode::lazy());
//! // With a driver bound, nothing but `DMA` to `DMA-FQ` is possible.
//! assert_eq!(registry.write_type(group, b"DMA\n").unwrap_err().errno(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compatible;
mod decide;
mod live;
mod registry;
mod word;

pub use compatible::{CompatibleError, Entry, MatchTable, MatchTableError, parse_compatible};
pub use decide::{
    Decision, DeviceVote, InstanceVote, Refusal, Strictness, SystemDefaults, Translation, admit,
    decide,
};
pub use live::{LiveDomain, LiveError};
pub use registry::{
    AddError, BindError, DeviceId, DeviceInfo, GroupId, InstanceError, InstanceId, MakeDomain,
    Registry, RemoveError, TightenError, UnbindError, WriteError,
};
pub use word::{DomainType, TypeRequest, UnknownWord};
