//! The registry over real domains, behind an IOMMU that forgets nothing unasked:
//! the word says what a device can do.

use std::{marker::PhantomData, sync::Arc};

use dmabench_dma::{
    Device, Direction, DomainConfig, FlushError, Mode, Segment,
    policy::{
        Decision, DeviceId, DeviceVote, DomainType, GroupId, InstanceId, InstanceVote, LiveDomain,
        LiveError, MakeDomain, Registry, SystemDefaults, WriteError,
    },
};
use dmabench_platform::{Iova, PhysAddr, TimeNs};
use proptest::{
    prelude::*,
    test_runner::{TestCaseResult, TestError, TestRunner},
};

use crate::{
    common::{Fault, PAGE, TestDomain, domain_with, stale, touch_all},
    mock::device,
};

struct Maker<D>(PhantomData<D>);

impl<D: Handle> MakeDomain for Maker<D> {
    type Domain = D;
    type Error = std::convert::Infallible;

    fn make_domain(
        &mut self,
        _: GroupId,
        decision: Decision,
        _: &[InstanceId],
    ) -> Result<D, Self::Error> {
        let config = DomainConfig::new(decision.mode()).reclaim(None);
        Ok(D::of(Arc::new(domain_with(config))))
    }
}

trait Handle: LiveDomain {
    fn of(domain: Arc<TestDomain>) -> Self;
    fn get(&self) -> &Arc<TestDomain>;
}

impl Handle for Arc<TestDomain> {
    fn of(domain: Arc<TestDomain>) -> Self {
        domain
    }
    fn get(&self) -> &Arc<TestDomain> {
        self
    }
}

/// Takes the mode for the whole truth: the variant that must fail.
struct ModeOnly(Arc<TestDomain>);

impl Handle for ModeOnly {
    fn of(domain: Arc<TestDomain>) -> Self {
        ModeOnly(domain)
    }
    fn get(&self) -> &Arc<TestDomain> {
        &self.0
    }
}

impl LiveDomain for ModeOnly {
    type Error = LiveError;

    fn domain_type(&self) -> DomainType {
        match self.0.mode() {
            Mode::Passthrough => DomainType::Identity,
            Mode::Lazy(_) => DomainType::DmaFq,
            _ => DomainType::Dma,
        }
    }
    fn relax(&self) -> Result<(), LiveError> {
        LiveDomain::relax(&self.0)
    }
    fn tighten(&self) -> Result<(), LiveError> {
        LiveDomain::tighten(&self.0)
    }
}

const CARD: DeviceId = DeviceId(1);

/// One device with its driver bound, that is `word`.
fn bound<D: Handle>(word: DomainType) -> (Registry<Maker<D>>, GroupId, Arc<TestDomain>) {
    let mut registry = Registry::new(SystemDefaults::default(), Maker(PhantomData::<D>));
    registry
        .add_instance(InstanceId(0), InstanceVote::default())
        .unwrap();
    registry.enumerated();
    let group = registry
        .add_device(device(CARD.0, 5, DeviceVote::NONE))
        .unwrap();
    registry.write_type(group, word.word().as_bytes()).unwrap();
    let (domain, _) = registry.bind(CARD).unwrap();
    let domain = domain.get().clone();
    (registry, group, domain)
}

/// Maps a page, lets the device use it, unmaps it: the addresses it may still
/// remember, if the unmap succeeded.
fn transfer(domain: &TestDomain) -> Vec<Iova> {
    let buffer = Segment {
        phys: PhysAddr(0x5000),
        len_bytes: PAGE,
    };
    let mapping = domain
        .map(&Device::new(), buffer, Direction::FromDevice)
        .unwrap();
    let pages = touch_all(domain, &mapping);
    match domain.unmap(mapping) {
        Ok(()) => pages,
        // The caller does not have the buffer back.
        Err(dmabench_dma::UnmapError::NotInvalidated(unfinished)) => {
            domain.backend().clear_faults();
            domain.finish(unfinished).unwrap();
            pages
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_word_is_what_the_device_can_do() {
    let (mut registry, group, domain) = bound::<Arc<_>>(DomainType::Dma);
    assert_eq!(stale(&domain, &transfer(&domain)), 0);
    registry.write_type(group, b"DMA-FQ\n").unwrap();
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    let exposed = transfer(&domain);
    assert_eq!(stale(&domain, &exposed), 1, "the same domain, now lazy");
    assert_eq!(registry.write_type(group, b"DMA").unwrap_err().errno(), 1);
    registry.tighten(group).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA"));
    assert_eq!(stale(&domain, &exposed), 0);
    assert_eq!(stale(&domain, &transfer(&domain)), 0);
}

#[test]
fn l4_a_way_back_that_fails_half_way_reads_as_lazy_until_all_is_flushed() {
    let (mut registry, group, domain) = bound::<Arc<_>>(DomainType::DmaFq);
    let exposed = transfer(&domain);
    domain.backend().inject(Fault::Late);
    let failed = registry.tighten(group).unwrap_err();
    assert!(failed.to_string().contains("did not change"), "{failed}");
    // Unmaps are strict by now, but one from before is not over.
    assert_eq!(domain.mode(), Mode::Strict);
    assert_eq!(stale(&domain, &exposed), 1);
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    // A strict device does not come in on the strength of half a change.
    domain.backend().inject(Fault::Refuse);
    let strict = || device(2, 5, DeviceVote::STRICT);
    assert!(matches!(
        registry.add_device(strict()),
        Err(dmabench_dma::policy::AddError::Live {
            error: LiveError::Tighten(FlushError::Late(_)),
            ..
        })
    ));
    registry.add_device(strict()).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA"));
    assert_eq!(stale(&domain, &exposed), 0);
}

/// It reads `DMA-FQ` before and after, but only one of the two lasts.
#[test]
fn a_write_takes_back_half_a_change_to_strict() {
    let (mut registry, group, domain) = bound::<Arc<_>>(DomainType::DmaFq);
    transfer(&domain);
    domain.backend().inject(Fault::Late);
    registry.tighten(group).unwrap_err();
    assert_eq!(
        registry.write_type(group, b"DMA-FQ").unwrap_err().errno(),
        1
    );
    registry.unbind(CARD).unwrap();
    assert_eq!(domain.mode(), Mode::Strict);
    registry.write_type(group, b"DMA-FQ").unwrap();
    assert!(Arc::ptr_eq(registry.domain(group).unwrap(), &domain));
    domain.drain().unwrap();
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    assert_eq!(stale(&domain, &transfer(&domain)), 1);
}

#[test]
fn a_passthrough_domain_refuses_to_be_changed() {
    let (_, _, domain) = bound::<Arc<_>>(DomainType::Identity);
    assert!(LiveDomain::relax(&domain).is_err());
    assert!(LiveDomain::tighten(&domain).is_ok());
    assert_eq!(domain.domain_type(), DomainType::Identity);
}

/// A domain that was lazy gets its own queue back, not another.
#[test]
fn a_domain_is_relaxed_to_the_lazy_mode_it_had() {
    let mode = Mode::lazy_single();
    let domain = domain_with(DomainConfig::new(mode));
    assert_eq!(domain.domain_type(), DomainType::DmaFq);
    LiveDomain::tighten(&domain).unwrap();
    assert_eq!(domain.domain_type(), DomainType::Dma);
    LiveDomain::relax(&domain).unwrap();
    assert_eq!(domain.mode(), mode);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Transfer,
    Write(&'static str),
    Tighten,
    Poll,
    Rebind,
}

fn step() -> impl Strategy<Value = (Step, Option<Fault>)> {
    let words = prop::sample::select(vec!["DMA", "DMA-FQ", "identity", "auto", "lazy"]);
    let step = prop_oneof![
        4 => Just(Step::Transfer),
        4 => words.prop_map(Step::Write),
        3 => Just(Step::Tighten),
        1 => Just(Step::Poll),
        1 => Just(Step::Rebind),
    ];
    let fault = prop_oneof![
        3 => Just(None),
        1 => prop::sample::select(vec![Fault::Late, Fault::Refuse, Fault::RefuseSync])
            .prop_map(Some),
    ];
    (step, fault)
}

type Case = (DomainType, Vec<(Step, Option<Fault>)>);

fn case() -> impl Strategy<Value = Case> {
    (
        prop::sample::select(vec![DomainType::Dma, DomainType::DmaFq]),
        prop::collection::vec(step(), 1..30),
    )
}

/// While it reads `DMA` nothing that was unmapped can be reached, and nothing
/// that will be; what a write or a way back reports is what happens; and nobody
/// else changes the word.
fn word_and_domain_agree<D: Handle>((first, steps): Case) -> TestCaseResult {
    let (mut registry, group, mut domain) = bound::<D>(first);
    let mut unmapped: Vec<Iova> = Vec::new();
    let mut now = 0;
    for (step, fault) in steps {
        if let Some(fault) = fault {
            domain.backend().inject(fault);
        }
        let before = registry.read_type(group);
        match step {
            Step::Transfer => {
                let pages = transfer(&domain);
                if before == Some("DMA") {
                    prop_assert_eq!(stale(&domain, &pages), 0);
                }
                unmapped.extend(pages);
            }
            Step::Write(word) => {
                let result = registry.write_type(group, word.as_bytes());
                let relaxes = before == Some("DMA") && word == "DMA-FQ";
                prop_assert_eq!(result.is_ok(), relaxes, "{:?}", result);
                match result {
                    Ok(()) => {
                        prop_assert_eq!(registry.read_type(group), Some(word));
                        domain.backend().clear_faults();
                        let pages = transfer(&domain);
                        prop_assert_eq!(stale(&domain, &pages), 1);
                        unmapped.extend(pages);
                    }
                    Err(WriteError::Word(_)) => prop_assert_eq!(word, "lazy"),
                    Err(error) => prop_assert_eq!(error.errno(), 1),
                }
            }
            Step::Tighten => match registry.tighten(group) {
                Ok(()) => prop_assert_eq!(registry.read_type(group), Some("DMA")),
                Err(_) => {
                    prop_assert!(fault.is_some());
                    prop_assert_eq!(registry.read_type(group), before);
                }
            },
            Step::Poll => {
                now += 20_000_000;
                let _ = domain.poll(TimeNs(now));
                now += 20_000_000;
                let _ = domain.poll(TimeNs(now));
            }
            Step::Rebind => {
                domain.backend().clear_faults();
                registry.unbind(CARD).unwrap();
                let (again, _) = registry.bind(CARD).unwrap();
                let again = again.get();
                if !Arc::ptr_eq(again, &domain) {
                    unmapped.clear();
                    domain = again.clone();
                }
            }
        }
        domain.backend().clear_faults();
        prop_assert_eq!(
            registry.read_type(group),
            Some(D::of(domain.clone()).domain_type().word())
        );
        if registry.read_type(group) == Some("DMA") {
            prop_assert_eq!(stale(&domain, &unmapped), 0);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_word_and_the_domain_agree_whatever_fails(case in case()) {
        word_and_domain_agree::<Arc<TestDomain>>(case)?;
    }
}

#[test]
fn a_word_that_forgets_what_is_left_in_the_queue_is_caught() {
    let mut runner = TestRunner::deterministic();
    let found = runner.run(&case(), word_and_domain_agree::<ModeOnly>);
    assert!(matches!(found, Err(TestError::Fail(..))), "{found:?}");
}
