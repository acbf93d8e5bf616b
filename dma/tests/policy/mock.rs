//! A domain that can fail, and its maker.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use dmabench_dma::policy::{
    Decision, DeviceId, DeviceInfo, DeviceVote, DomainType, GroupId, InstanceId, InstanceVote,
    LiveDomain, MakeDomain, Registry, SystemDefaults,
};

/// What the next live change does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Fails, and nothing has happened.
    Before,
    /// Fails half-way: some unmaps are lazy.
    Midway,
    /// Says it worked, and did nothing.
    Lies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

#[derive(Debug)]
pub(crate) struct MockDomain {
    /// Which of all that were made.
    pub(crate) number: usize,
    pub(crate) does: Cell<DomainType>,
    pub(crate) instances: Vec<InstanceId>,
    faults: Rc<Cell<Fault>>,
}

impl LiveDomain for MockDomain {
    type Error = Broken;

    fn domain_type(&self) -> DomainType {
        self.does.get()
    }

    fn relax(&self) -> Result<(), Broken> {
        assert_ne!(self.does.get(), DomainType::Identity);
        match self.faults.take() {
            Fault::None => self.does.set(DomainType::DmaFq),
            Fault::Before => return Err(Broken),
            Fault::Midway => {
                self.does.set(DomainType::DmaFq);
                return Err(Broken);
            }
            Fault::Lies => {}
        }
        Ok(())
    }

    fn tighten(&self) -> Result<(), Broken> {
        assert_eq!(self.does.get(), DomainType::DmaFq);
        match self.faults.take() {
            Fault::None => self.does.set(DomainType::Dma),
            // Midway: new unmaps wait, but old ones have not been flushed.
            Fault::Before | Fault::Midway => return Err(Broken),
            Fault::Lies => {}
        }
        Ok(())
    }
}

/// Shared with the test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maker {
    pub(crate) made: Rc<Cell<usize>>,
    pub(crate) fails: Rc<Cell<bool>>,
    pub(crate) faults: Rc<Cell<Fault>>,
    pub(crate) last: Rc<RefCell<Vec<(GroupId, Decision)>>>,
}

impl MakeDomain for Maker {
    type Domain = MockDomain;
    type Error = Broken;

    fn make_domain(
        &mut self,
        group: GroupId,
        decision: Decision,
        instances: &[InstanceId],
    ) -> Result<MockDomain, Broken> {
        if self.fails.get() {
            return Err(Broken);
        }
        self.made.set(self.made.get() + 1);
        self.last.borrow_mut().push((group, decision));
        Ok(MockDomain {
            number: self.made.get(),
            does: Cell::new(decision.domain_type),
            instances: instances.into(),
            faults: self.faults.clone(),
        })
    }
}

pub(crate) type Mocked = Registry<Maker>;

/// A registry with one SMMU, number 0, after enumeration.
pub(crate) fn ready(system: SystemDefaults) -> (Mocked, Maker) {
    let maker = Maker::default();
    let mut registry = Registry::new(system, maker.clone());
    registry
        .add_instance(InstanceId(0), InstanceVote::default())
        .unwrap();
    registry.enumerated();
    (registry, maker)
}

/// A device behind SMMU 0 with this one stream.
pub(crate) fn device(id: u32, stream: u32, vote: DeviceVote) -> DeviceInfo {
    DeviceInfo::new(DeviceId(id), InstanceId(0), vec![stream]).vote(vote)
}
