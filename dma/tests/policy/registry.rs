//! Arrivals, departures and refusals, one by one.

use dmabench_dma::policy::{
    AddError, BindError, Decision, DeviceId, DeviceInfo, DeviceVote, DomainType, InstanceError,
    InstanceId, InstanceVote, LiveDomain, Refusal, Registry, RemoveError, SystemDefaults,
    Translation, UnbindError,
};

use crate::mock::{Broken, Fault, Maker, device, ready};

#[test]
fn a_device_may_come_before_its_smmu_and_a_second_smmu_later() {
    let maker = Maker::default();
    let mut registry = Registry::new(SystemDefaults::default(), maker.clone());
    let behind = |id, instance| {
        DeviceInfo::new(DeviceId(id), InstanceId(instance), vec![id])
            .alias(1)
            .vote(DeviceVote::LAZY)
    };
    let group = registry.add_device(behind(1, 0)).unwrap();
    assert_eq!(registry.add_device(behind(2, 1)).unwrap(), group);
    let enumerating = registry.bind(DeviceId(1)).unwrap_err();
    assert_eq!(enumerating, BindError::Enumerating);
    assert!(enumerating.is_deferral());
    registry.enumerated();
    assert_eq!(registry.read_type(group), Some("unknown"));
    registry
        .add_instance(InstanceId(0), InstanceVote::default())
        .unwrap();
    // The group needs both.
    let missing = registry.bind(DeviceId(1)).unwrap_err();
    assert_eq!(missing, BindError::NoInstance(InstanceId(1)));
    assert_eq!((missing.is_deferral(), missing.errno()), (true, 517));
    assert_eq!(maker.made.get(), 0);
    registry
        .add_instance(InstanceId(1), InstanceVote::default())
        .unwrap();
    // Settled before any driver binds.
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    let (domain, decision) = registry.bind(DeviceId(2)).unwrap();
    assert_eq!(decision, Decision::LAZY);
    assert_eq!(domain.instances, [InstanceId(0), InstanceId(1)]);
    registry.bind(DeviceId(1)).unwrap();
    assert_eq!(maker.made.get(), 1, "one domain for the group");
}

#[test]
fn a_late_strict_device_tightens_a_bound_group_before_it_is_let_in() {
    let (mut registry, maker) = ready(SystemDefaults::default());
    let group = registry.add_device(device(1, 5, DeviceVote::LAZY)).unwrap();
    registry.bind(DeviceId(1)).unwrap();
    // The switch fails: the newcomer stays out, and nothing claims to be strict.
    for fault in [Fault::Before, Fault::Midway] {
        maker.faults.set(fault);
        assert_eq!(
            registry.add_device(device(2, 5, DeviceVote::STRICT)),
            Err(AddError::Live {
                group,
                error: Broken
            })
        );
        assert_eq!(registry.group_of(DeviceId(2)), None);
        assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    }
    maker.faults.set(Fault::Lies);
    assert_eq!(
        registry.add_device(device(2, 5, DeviceVote::STRICT)),
        Err(AddError::GroupInUse { group })
    );
    assert_eq!(
        registry.add_device(device(2, 5, DeviceVote::STRICT)),
        Ok(group)
    );
    assert_eq!(registry.read_type(group), Some("DMA"));
    assert_eq!(
        maker.made.get(),
        1,
        "under the driver's feet: the same domain"
    );
    // It leaves again: nothing is relaxed while a driver is bound.
    registry.remove_device(DeviceId(2)).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA"));
    registry.unbind(DeviceId(1)).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
}

#[test]
fn u2_a_late_untrusted_device_stays_out_of_a_bound_group() {
    for translation in [Translation::Translated, Translation::Identity] {
        let (mut registry, _) = ready(SystemDefaults {
            translation,
            command_line: None,
        });
        let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
        let (_, before) = registry.bind(DeviceId(1)).unwrap();
        let hostile = device(2, 5, DeviceVote::UNTRUSTED);
        // The driver of the first does not bounce.
        assert_eq!(
            registry.add_device(hostile.clone()),
            Err(AddError::GroupInUse { group })
        );
        assert_eq!(registry.decision(group), Some(before));
        registry.unbind(DeviceId(1)).unwrap();
        assert_eq!(registry.add_device(hostile), Ok(group));
        let (_, decision) = registry.bind(DeviceId(1)).unwrap();
        assert_eq!(decision, Decision::UNTRUSTED);
        // The pin outlives its cause as long as somebody is bound beside it.
        registry.remove_device(DeviceId(2)).unwrap();
        assert_eq!(registry.decision(group), Some(Decision::UNTRUSTED));
        let refused = registry.write_type(group, b"DMA-FQ").unwrap_err();
        assert_eq!(refused.errno(), 1);
        registry.unbind(DeviceId(1)).unwrap();
        assert_eq!(registry.decision(group), Some(before));
    }
}

#[test]
fn bad_input_51_an_untrusted_device_is_never_lazy_nor_untranslated() {
    let (mut registry, maker) = ready(SystemDefaults {
        translation: Translation::Identity,
        command_line: None,
    });
    let vote = DeviceVote {
        untrusted: true,
        ..DeviceVote::LAZY
    };
    let group = registry.add_device(device(1, 5, vote)).unwrap();
    for bound in [false, true] {
        if bound {
            let (_, decision) = registry.bind(DeviceId(1)).unwrap();
            assert_eq!(decision, Decision::UNTRUSTED);
        }
        for word in ["DMA-FQ", "identity"] {
            let refused = registry.write_type(group, word.as_bytes()).unwrap_err();
            assert_eq!(refused.errno(), 1, "{word}: {refused}");
            assert_eq!(registry.decision(group), Some(Decision::UNTRUSTED));
        }
    }
    assert_eq!(maker.made.get(), 1);
    // One that cannot be translated has no domain at all.
    let vote = DeviceVote {
        needs_identity: true,
        ..DeviceVote::UNTRUSTED
    };
    let other = registry.add_device(device(2, 6, vote)).unwrap();
    assert_eq!(
        registry.bind(DeviceId(2)).unwrap_err(),
        BindError::Refused(Refusal::Untrusted)
    );
    assert_eq!(registry.read_type(other), Some("unknown"));
}

#[test]
fn a_choice_lapses_when_a_member_rules_it_out() {
    let (mut registry, _) = ready(SystemDefaults::default());
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    registry.write_type(group, b"identity\n").unwrap();
    registry
        .add_device(device(2, 5, DeviceVote::UNTRUSTED))
        .unwrap();
    assert_eq!(registry.decision(group), Some(Decision::UNTRUSTED));
    // It does not come back by itself.
    registry.remove_device(DeviceId(2)).unwrap();
    assert_eq!(registry.decision(group), Some(Decision::STRICT));
}

#[test]
fn a_choice_that_a_late_device_overrules_live_does_not_come_back() {
    let (mut registry, _) = ready(SystemDefaults::default());
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    registry.bind(DeviceId(1)).unwrap();
    registry.write_type(group, b"DMA-FQ").unwrap();
    registry
        .add_device(device(2, 5, DeviceVote::STRICT))
        .unwrap();
    assert_eq!(registry.read_type(group), Some("DMA"));
    registry.remove_device(DeviceId(2)).unwrap();
    registry.unbind(DeviceId(1)).unwrap();
    assert_eq!(registry.read_type(group), Some("DMA"));
}

#[test]
fn a_late_device_behind_an_smmu_that_the_domain_does_not_serve_stays_out() {
    let (mut registry, maker) = ready(SystemDefaults::default());
    let behind = |id, instance| DeviceInfo::new(DeviceId(id), InstanceId(instance), vec![id]);
    let group = registry.add_device(behind(1, 0).alias(4)).unwrap();
    registry.bind(DeviceId(1)).unwrap();
    let in_use = Err(AddError::GroupInUse { group });
    assert_eq!(registry.add_device(behind(2, 1).alias(4)), in_use);
    registry
        .add_instance(InstanceId(1), InstanceVote::default())
        .unwrap();
    assert_eq!(registry.add_device(behind(2, 1).alias(4)), in_use);
    registry.unbind(DeviceId(1)).unwrap();
    assert_eq!(registry.add_device(behind(2, 1).alias(4)), Ok(group));
    let (domain, _) = registry.bind(DeviceId(1)).unwrap();
    assert_eq!(domain.instances, [InstanceId(0), InstanceId(1)]);
    assert_eq!(maker.made.get(), 2);
}

#[test]
fn a_choice_stays_in_a_joined_group_only_if_it_was_boths() {
    for (words, joined) in [
        (["DMA-FQ", "DMA-FQ"], "DMA-FQ"),
        (["DMA-FQ", "DMA"], "DMA"),
        (["identity", "auto"], "DMA"),
        (["auto", "DMA-FQ"], "DMA"),
    ] {
        let (mut registry, _) = ready(SystemDefaults::default());
        let groups = [1, 2].map(|n| registry.add_device(device(n, n, DeviceVote::NONE)));
        for (group, word) in groups.iter().zip(words) {
            registry
                .write_type(group.unwrap(), word.as_bytes())
                .unwrap();
        }
        let bridge = DeviceInfo::new(DeviceId(3), InstanceId(0), vec![1, 2]);
        let group = registry.add_device(bridge).unwrap();
        assert_eq!(registry.read_type(group), Some(joined), "{words:?}");
    }
}

#[test]
fn two_groups_become_one_only_while_no_driver_is_bound() {
    let (mut registry, _) = ready(SystemDefaults::default());
    let first = registry.add_device(device(1, 1, DeviceVote::LAZY)).unwrap();
    let second = registry
        .add_device(device(2, 2, DeviceVote::STRICT))
        .unwrap();
    assert_ne!(first, second);
    let bridge = || DeviceInfo::new(DeviceId(3), InstanceId(0), vec![1, 2]).vote(DeviceVote::LAZY);
    registry.bind(DeviceId(2)).unwrap();
    assert_eq!(
        registry.add_device(bridge()),
        Err(AddError::JoinsGroups { first, second })
    );
    registry.unbind(DeviceId(2)).unwrap();
    assert_eq!(registry.add_device(bridge()), Ok(first));
    assert_eq!(registry.members(first).count(), 3);
    assert_eq!(registry.group_of(DeviceId(2)), Some(first));
    assert_eq!(registry.read_type(second), None);
    assert_eq!(registry.read_type(first), Some("DMA"));
}

#[test]
fn members_that_contradict_each_other_have_no_domain_whoever_came_first() {
    let needs = DeviceVote {
        needs_translation: true,
        ..DeviceVote::NONE
    };
    for votes in [[needs, DeviceVote::IDENTITY], [DeviceVote::IDENTITY, needs]] {
        let (mut registry, maker) = ready(SystemDefaults::default());
        let group = registry.add_device(device(1, 5, votes[0])).unwrap();
        assert_eq!(maker.made.get(), 1);
        registry.add_device(device(2, 5, votes[1])).unwrap();
        for id in [DeviceId(1), DeviceId(2)] {
            let refused = registry.bind(id).unwrap_err();
            assert_eq!(refused, BindError::Refused(Refusal::NeedsTranslation));
            assert_eq!((refused.errno(), refused.is_deferral()), (22, false));
        }
        assert_eq!(registry.read_type(group), Some("unknown"));
        registry.remove_device(DeviceId(2)).unwrap();
        registry.bind(DeviceId(1)).unwrap();
        // With a driver bound, the second is told at once.
        assert_eq!(
            registry.add_device(device(2, 5, votes[1])),
            Err(AddError::Refused {
                group,
                refusal: Refusal::NeedsTranslation
            })
        );
    }
}

#[test]
fn a_domain_that_cannot_be_made_is_tried_again_at_the_next_bind() {
    let (mut registry, maker) = ready(SystemDefaults::default());
    maker.fails.set(true);
    let group = registry.add_device(device(1, 5, DeviceVote::LAZY)).unwrap();
    assert_eq!(registry.read_type(group), Some("unknown"));
    assert_eq!(
        registry.bind(DeviceId(1)).unwrap_err(),
        BindError::Domain(Broken)
    );
    maker.fails.set(false);
    let (domain, _) = registry.bind(DeviceId(1)).unwrap();
    assert_eq!(domain.domain_type(), DomainType::DmaFq);
    registry.unbind(DeviceId(1)).unwrap();
    // A change that cannot be made leaves what was.
    maker.fails.set(true);
    let refused = registry.write_type(group, b"identity").unwrap_err();
    assert_eq!(refused.errno(), 12);
    assert_eq!(registry.read_type(group), Some("DMA-FQ"));
    registry.bind(DeviceId(1)).unwrap();
}

#[test]
fn what_does_not_exist_or_exists_twice_is_refused() {
    let (mut registry, _) = ready(SystemDefaults::default());
    let id = DeviceId(1);
    assert_eq!(
        registry.add_instance(InstanceId(0), InstanceVote::default()),
        Err(InstanceError::Exists(InstanceId(0)))
    );
    assert_eq!(
        registry.add_device(DeviceInfo::new(id, InstanceId(0), vec![])),
        Err(AddError::NoStreams(id))
    );
    assert_eq!(registry.bind(id).unwrap_err(), BindError::Unknown(id));
    assert_eq!(registry.unbind(id), Err(UnbindError::Unknown(id)));
    assert_eq!(registry.remove_device(id), Err(RemoveError::Unknown(id)));
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    assert_eq!(
        registry.add_device(device(1, 6, DeviceVote::NONE)),
        Err(AddError::Exists(id))
    );
    assert_eq!(registry.unbind(id), Err(UnbindError::NotBound(id)));
    registry.bind(id).unwrap();
    assert_eq!(registry.bind(id).unwrap_err(), BindError::Bound(id));
    assert_eq!(registry.remove_device(id), Err(RemoveError::Bound(id)));
    registry.unbind(id).unwrap();
    registry.remove_device(id).unwrap();
    assert_eq!(registry.read_type(group), None);
    assert_eq!(registry.decision(group), None);
    assert!(registry.domain(group).is_none());
    // Numbers are not used twice.
    let next = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    assert_ne!(next, group);
}

#[test]
fn streams_of_two_smmus_are_different_streams() {
    let (mut registry, _) = ready(SystemDefaults::default());
    let group = registry.add_device(device(1, 5, DeviceVote::NONE)).unwrap();
    let other = DeviceInfo::new(DeviceId(2), InstanceId(1), vec![5]);
    assert_ne!(registry.add_device(other).unwrap(), group);
    let same = DeviceInfo::new(DeviceId(3), InstanceId(0), vec![9, 5]);
    assert_eq!(registry.add_device(same).unwrap(), group);
}
