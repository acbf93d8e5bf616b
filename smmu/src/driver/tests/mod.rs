//! Against a consumer that executes at once and keeps no caches: what the driver
//! writes and queues. What a device can then reach is the subject of
//! `smmu/tests`.

use alloc::{sync::Arc, vec, vec::Vec};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};
use std::sync::Mutex as Plain;

use dmabench_flushq::{
    BackendError, Late, RangeCommands, TlbBackend, TlbRange, commands_for, whole_context_from,
};
use dmabench_pgtable::{
    HeapTables, Level, PageTable, Registers, S1K4, S1K16, S1K64, S2K4, TableConfig, TableMemory,
    TableRef,
};
use dmabench_platform::{Fences, Granule, Iova, PhysAddr, Slots, Timeout};

use super::*;
use crate::{
    SmmuHost,
    format::{
        Cd, Command, Features, IdRegisters, RawCommand, Ste, SteConfig, SteIllegal, StreamContext,
        check_cd, check_command, check_ste, features::tests::QEMU_NESTED, registers as r,
    },
    queue::{
        QueueConfig, StopReason, WaitError,
        testing::{Fate, TestDevice, word_at},
    },
};

const IDS: IdRegisters = IdRegisters {
    // 48 bits of output: the test's memory is the heap.
    idr5: 0x75,
    ..QEMU_NESTED
};
const MS: Timeout = Timeout(1_000_000);

std::thread_local! {
    static ALLOCATIONS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

struct Counting;

// SAFETY: hands every call on to the system's allocator.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: core::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are handed on.
        unsafe { std::alloc::System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: core::alloc::Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { std::alloc::System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `f` asks for memory, on this thread.
fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

/// The heap, with a balance and a chosen failure.
#[derive(Default)]
struct Counted {
    live: AtomicI64,
    calls: AtomicUsize,
    fail_at: AtomicUsize,
}

// SAFETY: every call is `HeapTables`' own.
unsafe impl TableMemory for &Counted {
    fn alloc(&self, size: usize) -> Option<TableRef> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if call == self.fail_at.load(Ordering::Relaxed) {
            return None;
        }
        self.live.fetch_add(size as i64, Ordering::Relaxed);
        HeapTables.alloc(size)
    }
    unsafe fn free(&self, table: TableRef, size: usize) {
        self.live.fetch_sub(size as i64, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { HeapTables.free(table, size) };
    }
    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        // SAFETY: as promised by the caller.
        unsafe { HeapTables.phys_to_ptr(phys) }
    }
}

type Driver = Smmu<Arc<TestDevice>, HeapTables>;

fn config() -> SmmuConfig {
    SmmuConfig::default()
        .with_timeout(MS)
        .with_command_queue(QueueConfig::default().with_full_timeout(MS))
}

fn make_with(ids: IdRegisters, config: SmmuConfig) -> (Arc<TestDevice>, Driver) {
    let device = TestDevice::new(ids);
    let smmu = Smmu::new(device.clone(), HeapTables, config).unwrap();
    device.take_executed();
    (device, smmu)
}

fn make() -> (Arc<TestDevice>, Driver) {
    make_with(IDS, config())
}

fn slots() -> Arc<Slots> {
    Arc::new(Slots::new(1, Fences::Symmetric).unwrap())
}

fn stage1() -> Registers {
    PageTable::<S1K4, _>::new(TableConfig::new(48, 48), HeapTables, slots())
        .unwrap()
        .registers()
}

fn stage2() -> Registers {
    PageTable::<S2K4, _>::new(TableConfig::new(40, 48), HeapTables, slots())
        .unwrap()
        .registers()
}

/// The entry of a stream as the SMMU finds it through its registers.
fn entry(device: &TestDevice, sid: u32) -> Option<Ste> {
    let base = r::decode_strtab_base(device.get_wide(r::STRTAB_BASE)).0;
    let (config, known) = r::StrtabBaseCfg::decode(device.get(r::STRTAB_BASE_CFG));
    assert!(known && sid >> config.lg2_size == 0);
    let read = |at: u64| u64::from_le(word_at(at).load(Ordering::Acquire));
    let (table, index) = match config.split {
        None => (base, sid),
        Some(split) => {
            let l1 = crate::format::L1Std::decode(read(base + 8 * u64::from(sid >> split)));
            let entries = l1.entries(split).ok()?;
            assert_eq!(entries, 1 << split);
            (l1.table.0, sid & ((1 << split) - 1))
        }
    };
    let at = table + 64 * u64::from(index);
    Some(Ste(core::array::from_fn(|w| read(at + 8 * w as u64))))
}

fn decoded(commands: &[RawCommand], smmu: &Driver) -> Vec<Command> {
    commands
        .iter()
        .map(|raw| check_command(raw, smmu.features()).unwrap())
        .collect()
}

mod invalidation;
mod setup;
mod streams;
