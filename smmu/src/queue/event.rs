//! The event queue (7.2, 7.4): what devices did wrong.

use core::{fmt, ptr::NonNull};

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::sync::atomic::{AtomicU64, Ordering};

use super::{GlobalErrors, QueueSetupError};
use crate::{
    SmmuHost,
    format::{
        Event, EventKind, Features,
        registers::{self, QueueIndex},
    },
};

/// The producer index is impossible: more events than the queue holds (3.5.1).
/// What was in the queue is given up; the next events are read as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventQueueError {
    /// `EVENTQ_PROD`.
    pub prod: u32,
    /// `EVENTQ_CONS` before.
    pub cons: u32,
}

impl fmt::Display for EventQueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the event queue's producer index {:#x} is impossible for a consumer at {:#x}; its \
             events were skipped",
            self.prod, self.cons
        )
    }
}

impl core::error::Error for EventQueueError {}

/// What one call to [`EventQueue::drain`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBatch {
    /// Events handed out.
    pub events: u32,
    /// Of these, with a number that is reserved.
    pub reserved: u32,
    /// The SMMU discarded events since the last call (`OVFLG`, or
    /// `GERROR.EVENTQ_ABT_ERR`): there were more than these.
    pub lost: bool,
    /// More are waiting than were asked for.
    pub more: bool,
}

/// An event queue. Records are diagnostics: they may be merged or lost (7.2), so
/// nothing waits for one.
pub struct EventQueue<H: SmmuHost, M: TableMemory> {
    host: H,
    memory: M,
    table: TableRef,
    bytes: usize,
    lg2: u32,
    coherent: bool,
    cons: QueueIndex,
    /// `OVACKFLG` as last written.
    acknowledged: bool,
}

// SAFETY: `table` points to memory that came from `memory`, which is `Send` and
// `Sync`, and is reached through atomic loads only.
unsafe impl<H: SmmuHost, M: TableMemory> Send for EventQueue<H, M> {}
// SAFETY: `&self` gives no access to the memory.
unsafe impl<H: SmmuHost, M: TableMemory> Sync for EventQueue<H, M> {}

impl<H: SmmuHost, M: TableMemory> EventQueue<H, M> {
    /// Takes memory for `2^lg2` events. The registers are not touched.
    ///
    /// # Errors
    ///
    /// [`QueueSetupError`]; nothing is kept.
    pub fn new(host: H, memory: M, features: &Features, lg2: u32) -> Result<Self, QueueSetupError> {
        let max = features.eventq_lg2_max.min(registers::QUEUE_LG2_MAX);
        if lg2 > max {
            return Err(QueueSetupError::Size { lg2, max });
        }
        let bytes = (32_usize << lg2).max(64);
        let Some(table) = memory.alloc(bytes) else {
            return Err(QueueSetupError::NoMemory {
                bytes: bytes as u64,
            });
        };
        let align = registers::queue_align_bytes(lg2, 32);
        if table.phys.0 & (align - 1) != 0 || table.phys.0 >> 52 != 0 {
            // SAFETY: just allocated with this size, and not used.
            unsafe { memory.free(table, bytes) };
            return Err(QueueSetupError::Base { base: table.phys });
        }
        Ok(EventQueue {
            host,
            memory,
            table,
            bytes,
            lg2,
            coherent: features.coherent,
            cons: QueueIndex(0),
            acknowledged: false,
        })
    }

    /// The value of `EVENTQ_BASE`.
    pub fn base_register(&self) -> u64 {
        registers::queue_base(self.table.phys, self.lg2, self.coherent)
    }

    /// Writes `EVENTQ_PROD` and `EVENTQ_CONS` as 0, while the queue is disabled.
    pub fn write_pointers(&mut self) {
        self.cons = QueueIndex(0);
        self.acknowledged = false;
        self.host.write32(registers::EVENTQ_PROD, 0);
        self.host.write32(registers::EVENTQ_CONS, 0);
    }

    /// Hands out up to `max` events, oldest first, and makes room for new ones.
    ///
    /// # Errors
    ///
    /// [`EventQueueError`]; the queue goes on.
    pub fn drain(
        &mut self,
        errors: &GlobalErrors,
        max: u32,
        mut sink: impl FnMut(&Event),
    ) -> Result<EventBatch, EventQueueError> {
        let prod = self.host.read32(registers::EVENTQ_PROD);
        let end = QueueIndex::of(prod, self.lg2);
        let overflow = registers::overflow_flag(prod);
        let mut batch = EventBatch {
            lost: overflow != self.acknowledged,
            ..EventBatch::default()
        };
        let Some(waiting) = self.cons.distance_to(end, self.lg2) else {
            let cons = self.cons.0;
            self.cons = end;
            self.acknowledge(errors, overflow);
            return Err(EventQueueError { prod, cons });
        };
        let taken = waiting.min(max);
        batch.more = taken < waiting;
        for _ in 0..taken {
            let event = self.read(self.cons.slot(self.lg2));
            self.cons = self.cons.advanced(1, self.lg2);
            batch.events += 1;
            if matches!(event.kind, EventKind::Reserved(_)) {
                batch.reserved += 1;
            }
            sink(&event);
        }
        if taken != 0 || batch.lost {
            batch.lost |= self.acknowledge(errors, overflow);
        } else {
            batch.lost |= self.acknowledge_abort(errors);
        }
        Ok(batch)
    }

    fn read(&self, slot: u32) -> Event {
        let mut raw = [0; 4];
        for (word, value) in raw.iter_mut().enumerate() {
            let index = 4 * slot as usize + word;
            // SAFETY: the memory has `32 << lg2` bytes, `slot < 1 << lg2`, and it
            // is ours until `drop`.
            let cell: NonNull<AtomicU64> = unsafe { self.table.ptr.add(index) }.cast();
            // SAFETY: as above; a word that both sides use is atomic.
            *value = u64::from_le(unsafe { cell.as_ref() }.load(Ordering::Relaxed));
        }
        Event::decode(&raw)
    }

    /// Gives the entries back and repeats `OVFLG`, so that the next overflow
    /// shows.
    fn acknowledge(&mut self, errors: &GlobalErrors, overflow: bool) -> bool {
        self.acknowledged = overflow;
        let cons = self.cons.0 | u32::from(overflow) << 31;
        self.host.publish();
        self.host.write32(registers::EVENTQ_CONS, cons);
        self.acknowledge_abort(errors)
    }

    /// QEMU reports a full queue so, without `OVFLG`.
    fn acknowledge_abort(&self, errors: &GlobalErrors) -> bool {
        errors.active(&self.host) & registers::GERROR_EVENTQ_ABT != 0
            && errors.acknowledge(&self.host, registers::GERROR_EVENTQ_ABT) != 0
    }
}

impl<H: SmmuHost, M: TableMemory> Drop for EventQueue<H, M> {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc` with this size. The owner has disabled
        // the queue, as the documentation of `Smmu` demands, so nobody writes it.
        unsafe { self.memory.free(self.table, self.bytes) };
    }
}

impl<H: SmmuHost, M: TableMemory> fmt::Debug for EventQueue<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue")
            .field("lg2", &self.lg2)
            .field("cons", &self.cons)
            .finish_non_exhaustive()
    }
}
