//! The type file: Linux's words, rules and error numbers; and that what is read
//! is what the domain does, whatever fails.

use dmabench_dma::policy::{
    DeviceId, DeviceVote, DomainType, GroupId, LiveDomain, Strictness, SystemDefaults,
    TightenError, Translation, WriteError,
};
use proptest::prelude::*;

use crate::mock::{Broken, Fault, Maker, Mocked, device, ready};

fn lazy_by_default() -> SystemDefaults {
    SystemDefaults {
        translation: Translation::Translated,
        command_line: Some(Strictness::Lazy),
    }
}

/// A group of one device without opinions, lazy by default, that is `has`.
fn group_that_is(has: DomainType, bound: bool) -> (Mocked, Maker, GroupId) {
    let (mut registry, maker) = ready(lazy_by_default());
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    registry.write_type(group, has.word().as_bytes()).unwrap();
    assert_eq!(registry.read_type(group), Some(has.word()));
    if bound {
        registry.bind(DeviceId(1)).unwrap();
    }
    (registry, maker, group)
}

/// Each type, each word, with and without a driver: the type afterwards, or
/// the errno, as Linux 7.2 has it (`iommu_group_store_type`).
#[test]
fn the_table_of_linux() {
    use DomainType::{Dma, DmaFq, Identity};
    const EPERM: i32 = 1;
    const EINVAL: i32 = 22;
    #[rustfmt::skip]
    let table = [
        // has      written      driver bound         none bound
        (Dma,      "DMA",      Err(EPERM),          Ok(("DMA", false))),
        (Dma,      "DMA-FQ",   Ok(("DMA-FQ", true)), Ok(("DMA-FQ", true))),
        (Dma,      "identity", Err(EPERM),          Ok(("identity", false))),
        (Dma,      "auto",     Err(EPERM),          Ok(("DMA-FQ", false))),
        (DmaFq,    "DMA",      Err(EPERM),          Ok(("DMA", false))),
        (DmaFq,    "DMA-FQ",   Err(EPERM),          Ok(("DMA-FQ", false))),
        (DmaFq,    "identity", Err(EPERM),          Ok(("identity", false))),
        (DmaFq,    "auto",     Err(EPERM),          Ok(("DMA-FQ", false))),
        (Identity, "DMA",      Err(EPERM),          Ok(("DMA", false))),
        (Identity, "DMA-FQ",   Err(EPERM),          Ok(("DMA-FQ", false))),
        (Identity, "identity", Err(EPERM),          Ok(("identity", false))),
        (Identity, "auto",     Err(EPERM),          Ok(("DMA-FQ", false))),
        (Dma,      "lazy",     Err(EINVAL),         Err(EINVAL)),
        (DmaFq,    "",         Err(EINVAL),         Err(EINVAL)),
        (Identity, "dma",      Err(EINVAL),         Err(EINVAL)),
    ];
    for (has, word, bound, unbound) in table {
        for (is_bound, outcome) in [(true, bound), (false, unbound)] {
            for newline in ["", "\n"] {
                let (mut registry, maker, group) = group_that_is(has, is_bound);
                let domain = registry.domain(group).unwrap().number;
                let made = maker.made.get();
                let written = format!("{word}{newline}");
                let result = registry.write_type(group, written.as_bytes());
                let case = format!("{has} <- {word:?}, bound: {is_bound}: {result:?}");
                match outcome {
                    Ok((reads, live)) => {
                        assert!(result.is_ok(), "{case}");
                        assert_eq!(registry.read_type(group), Some(reads), "{case}");
                        if live || is_bound {
                            let now = registry.domain(group).unwrap().number;
                            assert_eq!(now, domain, "{case}");
                        }
                    }
                    Err(errno) => {
                        assert_eq!(result.unwrap_err().errno(), errno, "{case}");
                        assert_eq!(registry.read_type(group), Some(has.word()), "{case}");
                        assert_eq!(maker.made.get(), made, "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_group_that_does_not_exist_or_has_no_domain_cannot_be_written() {
    let (mut registry, maker) = ready(SystemDefaults::default());
    let nobody = GroupId(9);
    assert_eq!(registry.read_type(nobody), None);
    assert_eq!(registry.write_type(nobody, b"DMA").unwrap_err().errno(), 2);
    maker.fails.set(true);
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    assert_eq!(registry.write_type(group, b"DMA").unwrap_err().errno(), 22);
    assert_eq!(
        registry.tighten(group).unwrap_err(),
        TightenError::NotSettled(group)
    );
}

#[test]
fn strict_votes_and_needs_overrule_the_administrator() {
    let needs = DeviceVote {
        needs_translation: true,
        ..DeviceVote::NONE
    };
    for (vote, refused, allowed) in [
        (DeviceVote::STRICT, &["DMA-FQ", "identity"][..], "DMA"),
        (DeviceVote::IDENTITY, &["DMA", "DMA-FQ"], "identity"),
        (needs, &["identity"], "DMA-FQ"),
    ] {
        let (mut registry, _) = ready(SystemDefaults::default());
        let group = registry.add_device(device(1, 5, vote)).unwrap();
        for word in refused {
            let error = registry.write_type(group, word.as_bytes()).unwrap_err();
            assert!(matches!(error, WriteError::Refused(_)), "{error}");
            assert_eq!(error.errno(), 22);
        }
        registry.write_type(group, allowed.as_bytes()).unwrap();
        assert_eq!(registry.read_type(group), Some(allowed));
        registry.write_type(group, b"auto").unwrap();
    }
}

/// The command line is only a default: an administrator may relax one group, as
/// the thread's authors do at boot.
#[test]
fn a_strict_command_line_does_not_bind_the_administrator() {
    let (mut registry, _) = ready(SystemDefaults {
        translation: Translation::Translated,
        command_line: Some(Strictness::Strict),
    });
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    registry.bind(DeviceId(1)).unwrap();
    registry.write_type(group, b"DMA-FQ\n").unwrap();
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    // The choice stays when the driver is bound anew.
    registry.unbind(DeviceId(1)).unwrap();
    registry.bind(DeviceId(1)).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
}

#[test]
fn a_switch_that_fails_is_an_error_and_reads_as_what_is() {
    for (fault, reads, error) in [
        (Fault::Before, "DMA", WriteError::Live(Broken)),
        (Fault::Midway, "DMA-FQ", WriteError::Live(Broken)),
        (
            Fault::Lies,
            "DMA",
            WriteError::NotSwitched {
                is: DomainType::Dma,
            },
        ),
    ] {
        let (mut registry, maker, group) = group_that_is(DomainType::Dma, true);
        maker.faults.set(fault);
        assert_eq!(registry.write_type(group, b"DMA-FQ"), Err(error));
        assert_eq!(error.errno(), 5);
        assert_eq!(registry.read_type(group), Some(reads));
        // Another try, or the way back, is possible.
        if reads == "DMA" {
            registry.write_type(group, b"DMA-FQ").unwrap();
        }
        maker.faults.set(fault);
        assert!(registry.tighten(group).is_err());
        assert_eq!(registry.read_type(group), Some("DMA-FQ"));
        registry.tighten(group).unwrap();
        assert_eq!(registry.read_type(group), Some("DMA"));
        registry.tighten(group).unwrap();
    }
    let (mut registry, _, group) = group_that_is(DomainType::Identity, true);
    assert_eq!(
        registry.tighten(group).unwrap_err(),
        TightenError::Identity(group)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Add(u32, DeviceVote),
    Remove(u32),
    Bind(u32),
    Unbind(u32),
    Write(&'static str, Fault),
    Tighten(Fault),
    /// The domains cannot be made from here on, or can again.
    Fails(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = || {
        prop_oneof![
            4 => Just(Fault::None),
            1 => Just(Fault::Before),
            1 => Just(Fault::Midway),
            1 => Just(Fault::Lies)
        ]
    };
    let vote = prop_oneof![
        4 => Just(DeviceVote::NONE),
        2 => Just(DeviceVote::LAZY),
        1 => Just(DeviceVote::STRICT),
        1 => Just(DeviceVote::IDENTITY),
        1 => Just(DeviceVote::UNTRUSTED),
    ];
    let word = prop::sample::select(vec![
        "DMA", "DMA-FQ", "DMA-FQ\n", "identity", "auto\n", "nonsense",
    ]);
    let id = || 0_u32..4;
    prop_oneof![
        3 => (id(), vote).prop_map(|(id, vote)| Step::Add(id, vote)),
        1 => id().prop_map(Step::Remove),
        3 => id().prop_map(Step::Bind),
        2 => id().prop_map(Step::Unbind),
        6 => (word, fault()).prop_map(|(word, fault)| Step::Write(word, fault)),
        2 => fault().prop_map(Step::Tighten),
        1 => prop::bool::weighted(0.3).prop_map(Step::Fails),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// All devices share one stream, so there is at most one group.
    #[test]
    fn what_is_read_is_what_the_domain_does(
        lazy in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let (mut registry, maker) = ready(if lazy {
            lazy_by_default()
        } else {
            SystemDefaults::default()
        });
        let mut bound = [false; 4];
        let mut votes = [None; 4];
        for step in steps {
            let group = (0..4).find_map(|id| registry.group_of(DeviceId(id)));
            let before = group.and_then(|group| registry.read_type(group));
            let domain = group.and_then(|group| registry.domain(group)).map(|d| d.number);
            let was_bound = bound.contains(&true);
            // What the step says the type is afterwards; `None`: nothing.
            let mut says = None;
            match step {
                Step::Add(id, vote) => {
                    if registry.add_device(device(id, 5, vote)).is_ok() {
                        votes[id as usize] = Some(vote);
                    } else {
                        says = before;
                    }
                }
                Step::Remove(id) => {
                    if registry.remove_device(DeviceId(id)).is_ok() {
                        votes[id as usize] = None;
                    }
                }
                Step::Bind(id) => {
                    if let Ok((domain, decision)) = registry.bind(DeviceId(id)) {
                        prop_assert_eq!(domain.domain_type(), decision.domain_type);
                        bound[id as usize] = true;
                    }
                }
                Step::Unbind(id) => {
                    let unbound = registry.unbind(DeviceId(id)).is_ok();
                    prop_assert_eq!(unbound, std::mem::take(&mut bound[id as usize]));
                }
                Step::Write(word, fault) => {
                    let Some(group) = group else { continue };
                    maker.faults.set(fault);
                    says = match registry.write_type(group, word.as_bytes()) {
                        Ok(()) if word.trim_end() != "auto" => Some(word.trim_end()),
                        Ok(()) => None,
                        // The error says that the type must be looked at.
                        Err(WriteError::Live(_)) => None,
                        Err(_) => before,
                    };
                }
                Step::Tighten(fault) => {
                    let Some(group) = group else { continue };
                    maker.faults.set(fault);
                    says = match registry.tighten(group) {
                        Ok(()) => Some("DMA"),
                        Err(_) => before,
                    };
                }
                Step::Fails(fails) => maker.fails.set(fails),
            }
            maker.faults.set(Fault::None);
            let Some(group) = (0..4).find_map(|id| registry.group_of(DeviceId(id))) else {
                continue;
            };
            let reads = registry.read_type(group);
            if says.is_some() {
                prop_assert_eq!(reads, says);
            }
            let does = registry.domain(group).map(|domain| domain.domain_type());
            prop_assert_eq!(reads, Some(does.map_or("unknown", DomainType::word)));
            let decision = registry.decision(group);
            prop_assert_eq!(decision.map(|decision| decision.domain_type), does);
            // Nobody pulls the domain from under a driver.
            if was_bound && bound.contains(&true) {
                prop_assert_eq!(registry.domain(group).map(|d| d.number), domain);
            }
            // U1, U2
            if votes.iter().flatten().any(|vote| vote.untrusted) && does.is_some() {
                prop_assert_eq!(decision, Some(dmabench_dma::policy::Decision::UNTRUSTED));
            }
        }
    }
}
