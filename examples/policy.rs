//! Who may be lazy? Three devices behind two SMMUs appear in different orders,
//! their drivers probe in different orders, and the outcome is the same; then the
//! administrator relaxes one group under its driver, and may not relax the other.
//!
//! The eMMC host asks for lazy unmapping by its `compatible` string; the crypto
//! engine in its group has no opinion, so that the group is strict whichever of
//! the two drivers binds first. The card in the external slot is not trusted.
//!
//!     cargo run --example policy

use std::{error::Error, sync::Arc};

use dmabench_dma::{
    Device, Direction, Domain, DomainConfig, DomainError, NoCacheOps, Segment,
    bounce::{BounceConfig, BounceDomain, BouncePolicy},
    policy::{
        Decision, DeviceId, DeviceInfo, DeviceVote, DomainType, Entry, GroupId, InstanceId,
        InstanceVote, LiveDomain, LiveError, MakeDomain, MatchTable, Registry, SystemDefaults,
        parse_compatible,
    },
};
use dmabench_pgtable::S1K4;
use dmabench_platform::{Fences, PhysAddr, Slots, ThreadSlots, VirtualClock};
use dmabench_smmu::soft::{
    SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, StreamConfig,
};

type Plain = Domain<Arc<SoftSmmu>, ThreadSlots, S1K4, Arc<SimMemory>>;
type Bounced = BounceDomain<Arc<SoftSmmu>, ThreadSlots, S1K4, Arc<SimMemory>, Arc<SimMemory>>;

// 1. What is known about devices, by their `compatible` strings.

const VOTES: MatchTable<'static, DeviceVote> = match MatchTable::new(&[Entry {
    compatible: "qcom,sc7180-sdhci",
    value: DeviceVote::LAZY,
}]) {
    Ok(table) => table,
    Err(_) => panic!("two entries for one string"),
};

fn vote_of(compatible: &[u8]) -> DeviceVote {
    let strings = parse_compatible(compatible).into_iter().flatten();
    VOTES.lookup(strings).copied().unwrap_or_default()
}

// 2. How domains are made: with bounce pages where the decision says so.

enum Attached {
    Plain(Box<Plain>),
    Bounced(Box<Bounced>),
}

impl LiveDomain for Attached {
    type Error = LiveError;

    fn domain_type(&self) -> DomainType {
        match self {
            Attached::Plain(domain) => domain.domain_type(),
            Attached::Bounced(domain) => domain.domain_type(),
        }
    }
    fn relax(&self) -> Result<(), LiveError> {
        match self {
            Attached::Plain(domain) => LiveDomain::relax(&**domain),
            Attached::Bounced(domain) => LiveDomain::relax(&**domain),
        }
    }
    fn tighten(&self) -> Result<(), LiveError> {
        match self {
            Attached::Plain(domain) => LiveDomain::tighten(&**domain),
            Attached::Bounced(domain) => LiveDomain::tighten(&**domain),
        }
    }
}

struct Board {
    memory: Arc<SimMemory>,
    smmu: Arc<SoftSmmu>,
    slots: Arc<Slots>,
}

const POOL: Segment = Segment {
    phys: PhysAddr(0x9000_0000),
    len_bytes: 1 << 20,
};

/// One for each group of this small board.
fn asid_of(group: GroupId) -> u16 {
    group.0 as u16 + 1
}

impl MakeDomain for Board {
    type Domain = Attached;
    type Error = DomainError;

    fn make_domain(
        &mut self,
        group: GroupId,
        decision: Decision,
        _: &[InstanceId],
    ) -> Result<Attached, DomainError> {
        let asid = asid_of(group);
        let domain = Domain::with_parts(
            DomainConfig::new(decision.mode()),
            self.slots.clone(),
            ThreadSlots,
            self.memory.clone(),
            self.smmu.clone(),
            SmmuContext::Stage1 { vmid: 0, asid },
        )?;
        if !decision.bounce {
            return Ok(Attached::Plain(Box::new(domain)));
        }
        let config = BounceConfig::new(BouncePolicy::Partial, POOL);
        let bounced = BounceDomain::new(domain, config, self.memory.clone(), NoCacheOps);
        Ok(Attached::Bounced(Box::new(
            bounced.expect("whole granules, and a strict domain"),
        )))
    }
}

// 3. What appears.

const EMMC: DeviceId = DeviceId(1);
const CRYPTO: DeviceId = DeviceId(2);
const CARD: DeviceId = DeviceId(3);
const APPS_SMMU: InstanceId = InstanceId(0x1500_0000);
const PCIE_SMMU: InstanceId = InstanceId(0x1c00_0000);

fn device(id: DeviceId) -> DeviceInfo {
    match id {
        EMMC => DeviceInfo::new(id, APPS_SMMU, vec![0x60])
            .vote(vote_of(b"qcom,sc7180-sdhci\0qcom,sdhci-msm-v5\0")),
        CRYPTO => DeviceInfo::new(id, APPS_SMMU, vec![0x60, 0x61])
            .vote(vote_of(b"qcom,inline-crypto-engine\0")),
        _ => DeviceInfo::new(id, PCIE_SMMU, vec![0x100]).vote(DeviceVote::UNTRUSTED),
    }
}

#[derive(Clone, Copy)]
enum Event {
    Device(DeviceId),
    Smmu(InstanceId),
    /// The device tree has been walked.
    Enumerated,
}

/// Plays the events; after each of them every driver tries, in this order.
fn boot(events: &[Event], drivers: &[DeviceId]) -> Result<Registry<Board>, Box<dyn Error>> {
    let memory = SimMemory::new(SimMemoryConfig::default())?;
    let smmu = SoftSmmu::new(
        memory.clone(),
        Arc::new(VirtualClock::default()),
        SoftConfig::default(),
    );
    let slots = Arc::new(Slots::new(4, Fences::detect())?);
    let board = Board {
        memory,
        smmu,
        slots,
    };
    let mut registry = Registry::new(SystemDefaults::default(), board);
    let mut waiting = drivers.to_vec();
    for event in events {
        match *event {
            Event::Device(id) => drop(registry.add_device(device(id))?),
            Event::Smmu(id) => registry.add_instance(id, InstanceVote::default())?,
            Event::Enumerated => registry.enumerated(),
        }
        let mut refused = None;
        waiting.retain(|id| match registry.bind(*id) {
            Ok(_) => false,
            // Not there, or its SMMU is not: try again.
            Err(error) => {
                if registry.group_of(*id).is_some() && !error.is_deferral() {
                    refused = Some(error);
                }
                true
            }
        });
        if let Some(error) = refused {
            return Err(error.into());
        }
    }
    assert!(waiting.is_empty(), "every driver has bound");
    Ok(registry)
}

/// What is seen from outside: type and bounce pages of each device.
fn outcome(registry: &Registry<Board>) -> Vec<(DeviceId, Decision)> {
    [EMMC, CRYPTO, CARD]
        .into_iter()
        .filter_map(|id| Some((id, registry.decision(registry.group_of(id)?)?)))
        .collect()
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    use Event::{Device as Found, Enumerated, Smmu};

    let orders = [
        // As the device tree has it; the SD driver is built in.
        (
            [
                Smmu(APPS_SMMU),
                Smmu(PCIE_SMMU),
                Found(EMMC),
                Found(CRYPTO),
                Found(CARD),
                Enumerated,
            ],
            [EMMC, CRYPTO, CARD],
        ),
        // Every device before its SMMU, whose drivers are modules; the crypto
        // driver probes first.
        (
            [
                Found(CARD),
                Found(CRYPTO),
                Found(EMMC),
                Enumerated,
                Smmu(APPS_SMMU),
                Smmu(PCIE_SMMU),
            ],
            [CRYPTO, CARD, EMMC],
        ),
    ];
    let mut outcomes = Vec::new();
    let mut last = None;
    for (events, drivers) in orders {
        let registry = boot(&events, &drivers)?;
        outcomes.push(outcome(&registry));
        last = Some(registry);
    }
    for (id, decision) in &outcomes[0] {
        println!(
            "device {}: {}{}",
            id.0,
            decision.domain_type,
            if decision.bounce {
                ", bounced, pinned"
            } else {
                ""
            }
        );
    }
    assert_eq!(outcomes[0], outcomes[1], "whatever the order");
    assert_eq!(
        outcomes[0],
        [
            (EMMC, Decision::STRICT),
            (CRYPTO, Decision::STRICT),
            (CARD, Decision::UNTRUSTED)
        ]
    );

    // 4. `echo DMA-FQ > type`, with drivers bound.
    let mut registry = last.ok_or("no order was played")?;
    let group = |registry: &Registry<Board>, id| registry.group_of(id).ok_or("it was added");
    let (sd, card) = (group(&registry, EMMC)?, group(&registry, CARD)?);
    registry.write_type(sd, b"DMA-FQ\n")?;
    println!(
        "group of the eMMC: {}",
        registry.read_type(sd).unwrap_or("?")
    );
    assert_eq!(registry.read_type(sd), Some("DMA-FQ"));
    let refused = registry
        .write_type(card, b"DMA-FQ\n")
        .expect_err("it is not trusted");
    println!("group of the card: errno {}: {refused}", refused.errno());
    let refused = registry
        .write_type(sd, b"DMA\n")
        .expect_err("drivers are bound");
    println!("and back: errno {}: {refused}", refused.errno());
    registry.tighten(sd)?;
    assert_eq!(registry.read_type(sd), Some("DMA"));

    // 5. What the card sees of 100 bytes in the middle of a page of secrets.
    let (memory, smmu) = (
        registry.maker().memory.clone(),
        registry.maker().smmu.clone(),
    );
    let Some(Attached::Bounced(domain)) = registry.domain(card) else {
        return Err("an untrusted device without bounce pages".into());
    };
    let device = smmu.attach(StreamConfig::for_table(asid_of(card), &domain.registers()))?;
    let page = PhysAddr(0x8000_0000);
    memory.write(page, &[b'S'; 4096])?;
    let buffer = Segment {
        phys: PhysAddr(page.0 + 500),
        len_bytes: 100,
    };
    let mapping = domain.map(&Device::new(), buffer, Direction::ToDevice)?;
    let mut seen = [0_u8; 4096];
    let start = dmabench_platform::Iova(mapping.addr().0 & !4095);
    assert_eq!(device.read(start, &mut seen).fault, None);
    let secrets = seen.iter().filter(|byte| **byte == b'S').count();
    println!("of 4096 bytes around 100 the card sees {secrets} that are not zero");
    assert_eq!(secrets, 100);
    domain.unmap(mapping)?;
    Ok(())
}
