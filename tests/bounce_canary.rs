//! Bounce slots as a device sees them: every request's slots are read whole, by
//! DMA through the software SMMU, and no byte in them is anybody else's. A host
//! that does not zero must be noticed.

use std::sync::Arc;

use dmabench_dma::{
    Device, Direction, DmaSegment, Domain, DomainConfig, Mode, NoCacheOps, Segment,
    bounce::{BounceConfig, BounceDomain, BouncePolicy, Bounced},
};
use dmabench_pgtable::S1K4;
use dmabench_platform::{
    CpuMemory, Fences, Iova, MemoryError, PhysAddr, Slots, ThreadSlots, VirtualClock,
};
use dmabench_smmu::soft::{
    Access, SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, StreamConfig,
};

/// What nobody but its owner may see: it fills all memory around the buffers.
const CANARY: u8 = 0xee;
const PAGE: u64 = 4096;
const POOL: Segment = Segment {
    phys: PhysAddr(1 << 40),
    len_bytes: 128 * PAGE,
};
/// Memory of the buffers, a megabyte for each of some owners.
const OWNERS: u64 = 6;

/// The simulated memory as the CPU copies in it; perhaps it forgets to zero.
struct Host {
    memory: Arc<SimMemory>,
    zeroes: bool,
}

impl CpuMemory for Host {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        self.memory.copy(from, to, len_bytes)
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        if self.zeroes {
            self.memory.zero(at, len_bytes)
        } else {
            Ok(())
        }
    }
}

type Bouncing = BounceDomain<Arc<SoftSmmu>, ThreadSlots, S1K4, Arc<SimMemory>, Host>;

struct World {
    domain: Bouncing,
    card: SimDevice,
    memory: Arc<SimMemory>,
    random: u64,
}

impl World {
    fn new(policy: BouncePolicy, zeroes: bool) -> Self {
        let memory = SimMemory::new(SimMemoryConfig::default()).unwrap();
        let clock = Arc::new(VirtualClock::default());
        let smmu = SoftSmmu::new(memory.clone(), clock, SoftConfig::default());
        let domain = Domain::with_parts(
            DomainConfig::new(Mode::Strict),
            Arc::new(Slots::new(2, Fences::detect()).unwrap()),
            ThreadSlots,
            memory.clone(),
            smmu.clone(),
            SmmuContext::Stage1 { vmid: 0, asid: 1 },
        )
        .unwrap();
        let card = smmu
            .attach(StreamConfig::for_table(1, &domain.registers()))
            .unwrap();
        let host = Host {
            memory: memory.clone(),
            zeroes,
        };
        // The pool's memory was somebody's before.
        memory
            .write(POOL.phys, &vec![CANARY; POOL.len_bytes as usize])
            .unwrap();
        for owner in 0..OWNERS {
            let all = vec![CANARY; 1 << 17];
            memory.write(PhysAddr(owner << 20), &all).unwrap();
        }
        let config = BounceConfig::new(policy, POOL);
        World {
            domain: BounceDomain::new(domain, config, host, NoCacheOps).unwrap(),
            card,
            memory,
            random: 0x2545_f491_4f6c_dd1d,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % end
    }

    /// What the device reads at `at`; `None` where the SMMU stops it.
    fn dma_read(&self, at: Iova, len: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let transfer = self.card.read(at, &mut bytes);
        transfer.fault.is_none().then_some(bytes)
    }
}

/// A request under way: the byte that is its own, and what it was for.
struct Live {
    bounced: Bounced<Vec<Segment>>,
    /// Whether all of it is in slots.
    copied: bool,
    out: Vec<DmaSegment>,
    own: u8,
    direction: Direction,
}

/// Lists that were copied, and mapped in place.
fn lists_of(world: &World) -> (u64, u64) {
    let counts = world.domain.stats().counts;
    (counts.copied_lists, counts.in_place_lists)
}

/// The last one copies about half of the lists below.
const POLICIES: [BouncePolicy; 3] = [
    BouncePolicy::Partial,
    BouncePolicy::Everything,
    BouncePolicy::Small {
        below_bytes: 2 * PAGE,
    },
];

/// Runs requests of several owners at once and counts the foreign bytes that the
/// device or a caller met.
fn foreign_bytes(policy: BouncePolicy, zeroes: bool) -> u64 {
    let mut world = World::new(policy, zeroes);
    let mut foreign = 0;
    let mut lists = lists_of(&world);
    let mut live: Vec<Option<Live>> = (0..OWNERS).map(|_| None).collect();
    for round in 0..300_u64 {
        let owner = world.below(OWNERS);
        if let Some(done) = live[owner as usize].take() {
            foreign += finish(&mut world, done);
            continue;
        }
        // A byte of its own, never zero, never the canary, not the last one's.
        let own = (round % 0xd0) as u8 + 1;
        let mut at = owner << 20;
        let list: Vec<Segment> = (0..1 + world.below(4))
            .map(|_| {
                at += 8 + world.below(3 * PAGE);
                let len_bytes = 1 + world.below(2 * PAGE);
                let segment = Segment {
                    phys: PhysAddr(at),
                    len_bytes,
                };
                at += len_bytes;
                segment
            })
            .collect();
        for segment in &list {
            let data = vec![own; segment.len_bytes as usize];
            world.memory.write(segment.phys, &data).unwrap();
        }
        let direction = [
            Direction::ToDevice,
            Direction::FromDevice,
            Direction::Bidirectional,
        ][world.below(3) as usize];
        let mut out = vec![DmaSegment::EMPTY; list.len()];
        let bounced = world
            .domain
            .map_sg(&Device::new(), list, &mut out, direction)
            .unwrap();
        let before = std::mem::replace(&mut lists, lists_of(&world));
        let request = Live {
            copied: lists.0 > before.0,
            bounced,
            out,
            own,
            direction,
        };
        foreign += look(&world, &request);
        live[owner as usize] = Some(request);
    }
    for request in live.into_iter().flatten() {
        foreign += finish(&mut world, request);
    }
    let (copied, in_place) = lists_of(&world);
    assert_eq!(copied > 0, policy != BouncePolicy::Partial);
    assert_eq!(in_place > 0, policy != BouncePolicy::Everything);
    assert_eq!(world.card.smmu().violations(), []);
    assert_eq!(world.domain.stats().pool_bytes_held, 0);
    world.domain.close().unwrap();
    foreign
}

/// The device reads every byte it was given access to by this request.
fn look(world: &World, request: &Live) -> u64 {
    let (first, len) = request.bounced.mapped_range();
    let seen = world.dma_read(first, len).unwrap();
    let allowed = |byte: u8| match request.direction {
        // Pages that are mapped in place hold what the buffer holds; slots hold
        // nothing until the device has written.
        Direction::FromDevice if request.copied => byte == 0,
        _ => byte == 0 || byte == request.own,
    };
    seen.iter().filter(|byte| !allowed(**byte)).count() as u64
}

/// The device writes a part of what it may, and the request ends.
fn finish(world: &mut World, request: Live) -> u64 {
    let (first, len) = request.bounced.mapped_range();
    // By now others had slots, and gave them back.
    let mut foreign = look(world, &request);
    let answer = !request.own;
    let mut written = Vec::new();
    if request.direction.device_writes() {
        for out in &request.out {
            let part = world.below(out.len_bytes + 1);
            let data = vec![answer; part as usize];
            assert_eq!(world.card.write(out.addr, &data).unwrap().fault, None);
            written.push(part);
        }
    }
    let list = world.domain.unmap(request.bounced).unwrap();
    if !request.copied {
        assert_eq!(world.dma_read(first, 1), None, "S1");
        assert_eq!(world.dma_read(Iova(first.0 + len - 1), 1), None);
    }
    for (index, segment) in list.iter().enumerate() {
        let mut bytes = vec![0; segment.len_bytes as usize];
        world.memory.read(segment.phys, &mut bytes);
        let part = written.get(index).copied().unwrap_or(0) as usize;
        assert!(bytes[..part].iter().all(|byte| *byte == answer));
        let expected = |byte: u8| byte == 0 || byte == request.own;
        foreign += bytes[part..].iter().filter(|b| !expected(**b)).count() as u64;
        // The neighbours have what they had.
        for beside in [segment.phys.0 - 1, segment.phys.0 + segment.len_bytes] {
            let mut byte = [0];
            world.memory.read(PhysAddr(beside), &mut byte);
            let of_list = list
                .iter()
                .any(|s| (s.phys.0..s.phys.0 + s.len_bytes).contains(&beside));
            assert!(byte == [CANARY] || of_list || byte[0] != answer);
        }
        // For the next owner of these addresses.
        let canary = vec![CANARY; segment.len_bytes as usize];
        world.memory.write(segment.phys, &canary).unwrap();
    }
    foreign
}

#[test]
fn u1_whole_slots_hold_no_foreign_byte() {
    for policy in POLICIES {
        assert_eq!(foreign_bytes(policy, true), 0, "{policy:?}");
    }
}

#[test]
fn slots_that_are_not_zeroed_are_noticed() {
    for policy in POLICIES {
        assert!(foreign_bytes(policy, false) > 1000, "{policy:?}");
    }
}

/// The same buffers mapped in place, strictly: their neighbours are in reach
/// while they are mapped (L3).
#[test]
fn strict_alone_shows_the_neighbours() {
    let world = World::new(BouncePolicy::Partial, true);
    let plain = Domain::with_parts(
        DomainConfig::new(Mode::Strict),
        Arc::new(Slots::new(2, Fences::detect()).unwrap()),
        ThreadSlots,
        world.memory.clone(),
        world.card.smmu().clone(),
        SmmuContext::Stage1 { vmid: 0, asid: 2 },
    );
    let plain: Domain<_, _, S1K4, _> = plain.unwrap();
    let card = world
        .card
        .smmu()
        .attach(StreamConfig::for_table(2, &plain.registers()))
        .unwrap();
    let buffer = Segment {
        phys: PhysAddr(0x800),
        len_bytes: 16,
    };
    world.memory.write(buffer.phys, &[1; 16]).unwrap();
    let mapping = plain
        .map(&Device::new(), buffer, Direction::ToDevice)
        .unwrap();
    let page = Iova(mapping.addr().0 - 0x800);
    assert!(card.probe(page, Access::Read).is_fresh());
    let mut seen = [0; PAGE as usize];
    card.read(page, &mut seen);
    assert_eq!(seen.iter().filter(|byte| **byte == CANARY).count(), 4080);
    plain.unmap(mapping).unwrap();
    plain.close().unwrap();
}
