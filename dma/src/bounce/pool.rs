//! The slots: which of the pool's granules are whose. The I/O address allocator
//! does it, with its caches per CPU and its tokens: a slot is a range of
//! addresses, at which the device finds it or, where slots are mapped one by
//! one, at which it lies in memory.

use alloc::sync::Arc;

use dmabench_iova::{AllocError, AllocRequest, IovaConfig, IovaDomain, IovaRange};
use dmabench_pgtable::Format;
use dmabench_platform::{Granule, Iova, PhysAddr, SlotGuard, Slots, TimeNs};

use super::{BounceError, BounceSetupReason};
use crate::{MapError, Segment};

pub(super) struct Pool {
    slots: IovaDomain,
    /// What is added to a slot's address to have its physical one.
    to_phys: u64,
    memory: Segment,
    granule: Granule,
}

/// Whether `memory` can be a pool.
pub(super) fn check<F: Format>(memory: Segment) -> Result<(), BounceSetupReason> {
    let mask = F::GRANULE.mask();
    let whole = (memory.phys.0 | memory.len_bytes) & mask == 0;
    if !whole || memory.phys.last_byte(memory.len_bytes).is_none() {
        return Err(BounceSetupReason::Pool {
            phys: memory.phys,
            len_bytes: memory.len_bytes,
        });
    }
    Ok(())
}

impl Pool {
    /// A pool that [`check`] has found good, whose slots have addresses from
    /// `first` on.
    pub(super) fn new<F: Format>(
        slots: &Arc<Slots>,
        memory: Segment,
        first: Iova,
    ) -> Result<Self, BounceSetupReason> {
        // Checked: the length is not 0, and the window's end is one of the
        // tables' addresses.
        let last = Iova(first.0 + (memory.len_bytes - 1));
        let config = IovaConfig::new(F::GRANULE, first, last);
        Ok(Pool {
            slots: IovaDomain::new(config, slots.clone()).map_err(BounceSetupReason::Slots)?,
            to_phys: memory.phys.0.wrapping_sub(first.0),
            memory,
            granule: F::GRANULE,
        })
    }

    /// Slots of `bytes` bytes, whole granules.
    pub(super) fn alloc(
        &self,
        slot: &mut SlotGuard<'_>,
        bytes: u64,
    ) -> Result<IovaRange, BounceError> {
        let pages = bytes >> self.granule.lg2();
        self.slots
            .alloc(slot, pages, &AllocRequest::default())
            .map_err(|error| match error {
                AllocError::NoSpace => BounceError::PoolExhausted {
                    needed_bytes: bytes,
                },
                error => BounceError::Map(MapError::Iova(error)),
            })
    }

    /// Takes slots back that no device has been given any more.
    pub(super) fn free(&self, slot: &mut SlotGuard<'_>, range: IovaRange) {
        // Refused only for tokens of others, which cannot come here.
        let freed = self.slots.free(slot, range);
        debug_assert!(freed.is_ok());
    }

    /// Where slots lie in memory.
    pub(super) fn phys(&self, range: &IovaRange) -> PhysAddr {
        PhysAddr(range.iova().0.wrapping_add(self.to_phys))
    }

    pub(super) fn last_address(&self) -> Iova {
        Iova((self.memory.phys.0.wrapping_sub(self.to_phys)) + (self.memory.len_bytes - 1))
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.memory.len_bytes
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.slots.stats().live_bytes
    }

    pub(super) fn trim(&self, now: TimeNs) {
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.slots.trim(now);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<TimeNs> {
        self.slots.next_deadline()
    }
}
