//! Bounced mappings by invariant: what the device sees, what the caller gets
//! back, and what happens when something fails.

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod failure;
mod small;

use common::{
    host::{Caches, Call, Paper},
    *,
};
use dmabench_dma::{
    bounce::{BounceConfig, BounceDomain, BounceError, BouncePolicy, BounceSetupReason},
    *,
};
use dmabench_pgtable::format::S1K4;
use dmabench_platform::*;

use BouncePolicy::{Everything, Partial, Small};

/// Copies what fills no granule.
const SMALL: BouncePolicy = Small { below_bytes: PAGE };
/// Copies nothing but heads and tails, with a pool that is mapped all the same.
const NONE_SMALL: BouncePolicy = Small { below_bytes: 0 };
const POLICIES: [BouncePolicy; 4] = [Partial, Everything, SMALL, NONE_SMALL];

type TestBounce = BounceDomain<Hostile, ThreadSlots, S1K4, Quarantine, Paper, Caches>;

const POOL: Segment = Segment {
    phys: PhysAddr(0x7000_0000),
    len_bytes: 64 * PAGE,
};

struct World {
    bounce: TestBounce,
    memory: Paper,
    caches: Caches,
}

fn world(policy: BouncePolicy) -> World {
    world_for(policy, Device::new())
}

fn world_for(policy: BouncePolicy, device: Device) -> World {
    let (memory, caches) = (Paper::default(), Caches::default());
    let config = BounceConfig::new(policy, POOL).device(device);
    let bounce = BounceDomain::new(domain(Mode::Strict), config, memory.clone(), caches.clone());
    World {
        bounce: bounce.unwrap(),
        memory,
        caches,
    }
}

impl World {
    fn device_read(&self, at: Iova, len: u64) -> Option<Vec<u8>> {
        self.memory.device_read(self.bounce.backend(), at, len)
    }

    fn device_write(&self, at: Iova, bytes: &[u8]) {
        assert!(self.memory.device_write(self.bounce.backend(), at, bytes));
    }

    /// Leaves the bytes of others in the pool, where slots come from next.
    fn soil_pool(&self) {
        let dirty = 32 * PAGE;
        let at = POOL.phys.0 + POOL.len_bytes - dirty;
        self.memory.write(at, &vec![0xee; dirty as usize]);
    }

    /// Nothing is mapped or taken, and it closes.
    fn finish(self) {
        let stats = self.bounce.stats();
        assert_eq!(stats.domain.live_mappings, 0);
        assert_eq!(stats.pool_bytes_held, 0);
        assert_eq!(stats.domain.leaked_mappings, 0);
        let window = match self.bounce.policy() {
            Everything | Small { .. } => POOL.len_bytes / PAGE,
            Partial => 0,
        };
        assert_eq!(stats.domain.iova_pages_held, window);
        self.bounce.close().unwrap();
    }
}

const BUFFER: Segment = Segment {
    phys: PhysAddr(0x10_0200),
    len_bytes: 0x1900,
};
