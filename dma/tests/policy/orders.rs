//! The outcome does not depend on the order of arrival, nor on whose driver
//! probes first.

use std::collections::BTreeMap;

use dmabench_dma::policy::{
    AddError, BindError, Decision, DeviceId, DeviceInfo, DeviceVote, InstanceId, InstanceVote,
    Refusal, Registry, Strictness, SystemDefaults, Translation, decide,
};
use proptest::{
    prelude::*,
    test_runner::{TestCaseResult, TestError, TestRunner},
};

use crate::mock::{Maker, Mocked};

#[derive(Clone, Debug)]
enum Event {
    Device(DeviceInfo),
    Instance(InstanceId, InstanceVote),
    Enumerated,
}

/// What a machine consists of.
#[derive(Clone, Debug)]
struct Machine {
    system: SystemDefaults,
    instances: Vec<InstanceVote>,
    devices: Vec<DeviceInfo>,
}

impl Machine {
    fn events(&self) -> Vec<Event> {
        let instances = (0..).map(InstanceId).zip(&self.instances);
        instances
            .map(|(id, vote)| Event::Instance(id, *vote))
            .chain(self.devices.iter().cloned().map(Event::Device))
            .collect()
    }
}

impl Machine {
    /// What a group of these devices gets, from all of them at once.
    fn expected(&self, group: &[DeviceId]) -> Outcome {
        let members = || {
            self.devices
                .iter()
                .filter(|info| group.contains(&info.id()))
        };
        let mut instances = Vec::new();
        for info in members() {
            match self.instances.get(info.instance().0 as usize) {
                Some(vote) => instances.push(*vote),
                None => return Outcome::Waiting,
            }
        }
        let instance = instances.into_iter().reduce(InstanceVote::join);
        let device = members()
            .map(DeviceInfo::device_vote)
            .reduce(DeviceVote::join);
        match decide(self.system, instance.unwrap(), device.unwrap()) {
            Ok(decision) => Outcome::Bound(decision),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }
}

/// What a device ends up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Bound(Decision),
    Refused(Refusal),
    /// Some SMMU of the group never came.
    Waiting,
}

/// Something that handles arrivals and drivers.
trait Rule {
    fn new(system: SystemDefaults) -> Self;
    fn instance(&mut self, id: InstanceId, vote: InstanceVote);
    /// Whether the device was let in.
    fn device(&mut self, info: &DeviceInfo) -> bool;
    fn enumerated(&mut self);
    /// A driver tries.
    fn bind(&mut self, id: DeviceId);
    fn unbind_all(&mut self);
    fn outcome(&self, id: DeviceId) -> Outcome;
    /// Equal for devices of one group.
    fn group(&self, id: DeviceId) -> u64;
}

struct Ours {
    registry: Mocked,
    attempts: BTreeMap<DeviceId, Outcome>,
}

impl Rule for Ours {
    fn new(system: SystemDefaults) -> Self {
        Ours {
            registry: Registry::new(system, Maker::default()),
            attempts: BTreeMap::new(),
        }
    }

    fn instance(&mut self, id: InstanceId, vote: InstanceVote) {
        self.registry.add_instance(id, vote).unwrap();
    }

    fn device(&mut self, info: &DeviceInfo) -> bool {
        match self.registry.add_device(info.clone()) {
            Ok(_) => true,
            Err(
                AddError::GroupInUse { .. }
                | AddError::Refused { .. }
                | AddError::JoinsGroups { .. },
            ) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn enumerated(&mut self) {
        self.registry.enumerated();
    }

    fn bind(&mut self, id: DeviceId) {
        let outcome = match self.registry.bind(id) {
            Ok((_, decision)) => Outcome::Bound(decision),
            Err(BindError::Refused(refusal)) => Outcome::Refused(refusal),
            Err(error) if error.is_deferral() => Outcome::Waiting,
            Err(BindError::Bound(_) | BindError::Unknown(_)) => return,
            Err(error) => panic!("{error}"),
        };
        self.attempts.insert(id, outcome);
    }

    fn unbind_all(&mut self) {
        for id in std::mem::take(&mut self.attempts).into_keys() {
            let _ = self.registry.unbind(id);
        }
    }

    fn outcome(&self, id: DeviceId) -> Outcome {
        match self.attempts[&id] {
            // Later arrivals may have made it stricter.
            Outcome::Bound(_) => {
                let group = self.registry.group_of(id).unwrap();
                let covered = &self.registry.domain(group).unwrap().instances;
                for member in self.registry.members(group) {
                    assert!(covered.contains(&member.instance()), "{covered:?}");
                }
                Outcome::Bound(self.registry.decision(group).unwrap())
            }
            other => other,
        }
    }

    fn group(&self, id: DeviceId) -> u64 {
        self.registry.group_of(id).unwrap().0
    }
}

/// The rule that was objected to in 2021: whose driver binds first settles the
/// group's domain by its own wishes. (Groups are found correctly.)
struct FirstDriverWins {
    system: SystemDefaults,
    instances: BTreeMap<InstanceId, InstanceVote>,
    devices: Vec<DeviceInfo>,
    settled: BTreeMap<DeviceId, Outcome>,
    enumerated: bool,
}

impl FirstDriverWins {
    fn group_members(&self, id: DeviceId) -> Vec<DeviceId> {
        // The public face of grouping: a registry of these devices only.
        let mut registry = Registry::new(self.system, Maker::default());
        for device in &self.devices {
            registry.add_device(device.clone()).unwrap();
        }
        let group = registry.group_of(id).unwrap();
        registry.members(group).map(DeviceInfo::id).collect()
    }
}

impl Rule for FirstDriverWins {
    fn new(system: SystemDefaults) -> Self {
        FirstDriverWins {
            system,
            instances: BTreeMap::new(),
            devices: Vec::new(),
            settled: BTreeMap::new(),
            enumerated: false,
        }
    }

    fn instance(&mut self, id: InstanceId, vote: InstanceVote) {
        self.instances.insert(id, vote);
    }

    fn device(&mut self, info: &DeviceInfo) -> bool {
        self.devices.push(info.clone());
        true
    }

    fn enumerated(&mut self) {
        self.enumerated = true;
    }

    fn bind(&mut self, id: DeviceId) {
        let Some(first) = self.devices.iter().find(|device| device.id() == id) else {
            return;
        };
        let Some(instance) = self.instances.get(&first.instance()) else {
            return;
        };
        if !self.enumerated || self.settled.contains_key(&id) {
            return;
        }
        let members = self.group_members(id);
        let already = members.iter().find_map(|id| self.settled.get(id));
        let outcome = already.copied().unwrap_or_else(|| {
            match decide(self.system, *instance, first.device_vote()) {
                Ok(decision) => Outcome::Bound(decision),
                Err(refusal) => Outcome::Refused(refusal),
            }
        });
        self.settled.insert(id, outcome);
    }

    fn unbind_all(&mut self) {
        self.settled.clear();
    }

    fn outcome(&self, id: DeviceId) -> Outcome {
        self.settled.get(&id).copied().unwrap_or(Outcome::Waiting)
    }

    fn group(&self, id: DeviceId) -> u64 {
        u64::from(self.group_members(id)[0].0)
    }
}

/// Plays the events; drivers, the most eager first, try after each of them.
/// Devices that are not let in wait until everybody has been unbound.
fn play<R: Rule>(
    machine: &Machine,
    events: &[Event],
    drivers: &[DeviceId],
) -> BTreeMap<DeviceId, (Outcome, Vec<DeviceId>)> {
    let mut rule = R::new(machine.system);
    let mut left_out = Vec::new();
    for event in events {
        match event {
            Event::Device(info) => {
                if !rule.device(info) {
                    left_out.push(info);
                }
            }
            Event::Instance(id, vote) => rule.instance(*id, *vote),
            Event::Enumerated => rule.enumerated(),
        }
        for id in drivers {
            rule.bind(*id);
        }
    }
    if !left_out.is_empty() {
        rule.unbind_all();
        for info in left_out {
            assert!(rule.device(info), "nobody is bound");
        }
        for id in drivers {
            rule.bind(*id);
        }
    }
    let mates = |id| {
        let group = rule.group(id);
        let same = |other: &DeviceId| rule.group(*other) == group;
        drivers_sorted(drivers).into_iter().filter(same).collect()
    };
    drivers_sorted(drivers)
        .into_iter()
        .map(|id| (id, (rule.outcome(id), mates(id))))
        .collect()
}

fn drivers_sorted(drivers: &[DeviceId]) -> Vec<DeviceId> {
    let mut sorted = drivers.to_vec();
    sorted.sort();
    sorted
}

fn strictness() -> impl Strategy<Value = Option<Strictness>> {
    prop_oneof![
        Just(None),
        Just(Some(Strictness::Strict)),
        Just(Some(Strictness::Lazy))
    ]
}

fn vote() -> impl Strategy<Value = DeviceVote> {
    let rarely = || prop::bool::weighted(0.15);
    (rarely(), strictness(), rarely(), rarely()).prop_map(
        |(untrusted, strictness, needs_translation, needs_identity)| DeviceVote {
            untrusted,
            strictness,
            needs_translation,
            needs_identity,
        },
    )
}

fn machine() -> impl Strategy<Value = Machine> {
    let translation = prop_oneof![
        3 => Just(Translation::Translated),
        1 => Just(Translation::Identity)
    ];
    let system =
        (translation, strictness()).prop_map(|(translation, command_line)| SystemDefaults {
            translation,
            command_line,
        });
    let instance =
        (strictness(), prop::bool::weighted(0.8)).prop_map(|(strictness, deferred_flush)| {
            InstanceVote {
                strictness,
                deferred_flush,
            }
        });
    let device = (
        // The last of these never arrives.
        prop_oneof![8 => 0_u32..2, 1 => Just(2)],
        prop::collection::vec(0_u32..5, 1..3),
        prop::option::weighted(0.3, 0_u64..2),
        vote(),
    );
    let devices = prop::collection::vec(device, 2..7);
    (system, prop::collection::vec(instance, 2), devices).prop_map(
        |(system, instances, devices)| Machine {
            system,
            instances,
            devices: (10..)
                .zip(devices)
                .map(|(id, (instance, streams, alias, vote))| {
                    let info = DeviceInfo::new(DeviceId(id), InstanceId(instance), streams);
                    match alias {
                        Some(alias) => info.alias(alias),
                        None => info,
                    }
                    .vote(vote)
                })
                .collect(),
        },
    )
}

/// A machine, its events in some order, its drivers in some order.
fn shuffled() -> impl Strategy<Value = (Machine, Vec<Event>, Vec<DeviceId>, usize)> {
    machine().prop_flat_map(|machine| {
        let events = machine.events();
        let drivers: Vec<_> = machine.devices.iter().map(DeviceInfo::id).collect();
        let count = events.len();
        (
            Just(machine),
            Just(events).prop_shuffle(),
            Just(drivers).prop_shuffle(),
            0..=count,
        )
    })
}

fn in_order(machine: &Machine) -> (Vec<Event>, Vec<DeviceId>) {
    let mut events = machine.events();
    events.push(Event::Enumerated);
    let drivers = machine.devices.iter().map(DeviceInfo::id).collect();
    (events, drivers)
}

/// Enumeration ends at `at` or, if `all`, after the last device if that is
/// later.
fn check<R: Rule>(
    (machine, mut events, drivers, at): (Machine, Vec<Event>, Vec<DeviceId>, usize),
    all: bool,
) -> TestCaseResult {
    let last = events
        .iter()
        .rposition(|event| matches!(event, Event::Device(_)))
        .map_or(0, |last| last + 1);
    events.insert(if all { at.max(last) } else { at }, Event::Enumerated);
    let (canonical_events, canonical_drivers) = in_order(&machine);
    let canonical = play::<R>(&machine, &canonical_events, &canonical_drivers);
    prop_assert_eq!(&play::<R>(&machine, &events, &drivers), &canonical);
    for (outcome, mates) in canonical.values() {
        prop_assert_eq!(*outcome, machine.expected(mates), "{:?}", mates);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_order_of_arrival_and_of_drivers_has_one_outcome(case in shuffled()) {
        check::<Ours>(case, true)?;
    }

    /// Cards plugged into a running machine: what cannot be changed live keeps
    /// the newcomer out until the group's drivers are unbound; then all is as if
    /// it had been there.
    #[test]
    fn late_devices_change_nothing_but_the_time(case in shuffled()) {
        check::<Ours>(case, false)?;
    }
}

#[test]
fn first_driver_wins_depends_on_the_order_and_is_caught() {
    let mut runner = TestRunner::deterministic();
    let found = runner.run(&shuffled(), |case| check::<FirstDriverWins>(case, true));
    assert!(matches!(found, Err(TestError::Fail(..))), "{found:?}");
}

/// The case of the thread: the SD host asks for lazy, a second device in its
/// group wants strict, and either driver may probe first.
#[test]
fn the_historical_case() {
    let info = |id, vote| DeviceInfo::new(DeviceId(id), InstanceId(0), vec![0x60]).vote(vote);
    let machine = Machine {
        system: SystemDefaults::default(),
        instances: vec![InstanceVote::default()],
        devices: vec![info(1, DeviceVote::LAZY), info(2, DeviceVote::STRICT)],
    };
    let (events, drivers) = in_order(&machine);
    let swapped: Vec<_> = drivers.iter().rev().copied().collect();
    let strict = Outcome::Bound(Decision::STRICT);
    for drivers in [&drivers, &swapped] {
        for (outcome, _) in play::<Ours>(&machine, &events, drivers).into_values() {
            assert_eq!(outcome, strict);
        }
    }
    let first = play::<FirstDriverWins>(&machine, &events, &drivers);
    let second = play::<FirstDriverWins>(&machine, &events, &swapped);
    assert_eq!(first[&DeviceId(1)].0, Outcome::Bound(Decision::LAZY));
    assert_eq!(second[&DeviceId(1)].0, strict);
}
