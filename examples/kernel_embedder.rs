//! As a kernel would embed the core: its own CPU numbers as slots, preemption off
//! around each request, an interprocessor interrupt as the heavy fence, and page
//! frames for tables and for a ring that the device shares. The library crates are
//! used without `std` (see `ci/no_std` for a program that has none at all);
//! threads stand for CPUs.
//!
//!     cargo run --example kernel_embedder

use std::{
    cell::Cell,
    marker::PhantomData,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering, fence},
    },
    thread,
};

use dmabench_dma::{CacheOps, Device, Direction, DmaSegment, Domain, DomainConfig, Mode, Segment};
use dmabench_flushq::CountingBackend;
use dmabench_pgtable::{S1K4, TableMemory, TableRef};
use dmabench_platform::{Block, BlockMemory, Fences, PhysAddr, Pinned, SlotSource, Slots, TimeNs};
use rustix::thread::{MembarrierCommand, membarrier};

const CPUS: usize = 2;

// --- The kernel: CPU numbers and preemption ---------------------------------

thread_local! {
    /// A kernel reads this from a register.
    static CPU: Cell<usize> = const { Cell::new(usize::MAX) };
    static PREEMPT_OFF: Cell<u32> = const { Cell::new(0) };
}

/// Keeps the caller on its CPU. Not `Send`, as it belongs to that CPU.
struct PreemptGuard(PhantomData<*mut ()>);

impl PreemptGuard {
    fn new() -> Self {
        PREEMPT_OFF.set(PREEMPT_OFF.get() + 1);
        PreemptGuard(PhantomData)
    }
}

impl Drop for PreemptGuard {
    fn drop(&mut self) {
        PREEMPT_OFF.set(PREEMPT_OFF.get() - 1);
    }
}

/// The slot of the CPU we run on.
struct CpuSlots;

// SAFETY: a CPU's number is its own, and with preemption off the caller stays on
// that CPU until the pin is dropped. Interrupt handlers of this kernel do not
// map memory; else the guard would turn interrupts off as well.
unsafe impl SlotSource for CpuSlots {
    type Pin = PreemptGuard;

    fn pin(&self) -> Pinned<PreemptGuard> {
        let guard = PreemptGuard::new();
        let cpu = CPU.get();
        // A context without a number (early boot) shares the fallback.
        let own = (cpu < CPUS).then_some(cpu);
        // SAFETY: as stated at the trait.
        unsafe { Pinned::new(own, guard) }
    }
}

/// A full barrier on every CPU: in a kernel, an interrupt to all of them whose
/// handler is empty. Threads get it from the operating system.
fn interrupt_all_cpus() {
    fence(Ordering::SeqCst);
    membarrier(MembarrierCommand::PrivateExpedited).expect("registered in `main`");
    fence(Ordering::SeqCst);
}

// --- The kernel: page frames ------------------------------------------------

const FRAME_BYTES: usize = 4096;
const FRAMES: usize = 64;

#[repr(C, align(4096))]
struct Frame([u64; FRAME_BYTES / 8]);

/// A few frames at a physical address that is not the virtual one.
struct Frames {
    base: NonNull<Frame>,
    used: [AtomicUsize; FRAMES],
}

const PHYS_BASE: u64 = 0x4000_0000;

impl Frames {
    fn new() -> Self {
        let frames: Vec<Frame> = (0..FRAMES).map(|_| Frame([0; 512])).collect();
        let frames: &'static mut [Frame] = Box::leak(frames.into_boxed_slice());
        Frames {
            base: NonNull::from(frames).cast(),
            used: [const { AtomicUsize::new(0) }; FRAMES],
        }
    }

    fn frame(&self, index: usize) -> NonNull<u64> {
        assert!(index < FRAMES);
        // SAFETY: the index is below the number of frames behind `base`.
        unsafe { self.base.add(index) }.cast()
    }
}

// SAFETY: a frame belongs to whoever took its `used` flag from 0 to 1; the base
// address does not change.
unsafe impl Send for Frames {}
// SAFETY: as above.
unsafe impl Sync for Frames {}

// SAFETY: a frame is given out once until it is freed, zeroed and aligned to its
// size on both sides; moving `Frames` moves no frame; nothing unwinds, as indices
// come from `alloc`.
unsafe impl TableMemory for Frames {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        if size_bytes > FRAME_BYTES {
            return None;
        }
        let index = self.used.iter().position(|used| {
            used.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        let ptr = self.frame(index);
        // SAFETY: the frame is ours, and has so many bytes.
        unsafe { ptr.write_bytes(0, FRAME_BYTES / 8) };
        Some(TableRef {
            ptr,
            phys: PhysAddr(PHYS_BASE + (index * FRAME_BYTES) as u64),
        })
    }

    unsafe fn free(&self, table: TableRef, _size_bytes: usize) {
        let index = (table.phys.0 - PHYS_BASE) as usize / FRAME_BYTES;
        self.used[index].store(0, Ordering::Release);
    }

    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> NonNull<u64> {
        self.frame((phys.0 - PHYS_BASE) as usize / FRAME_BYTES)
    }
}

// SAFETY: as for tables: a frame is one block, aligned to its size and nobody
// else's until it is freed. The frames are never cached in a way that a device
// does not see (a kernel maps such frames uncached, or answers `None`).
unsafe impl BlockMemory for Frames {
    fn alloc(&self, len_bytes: u64, _align_bytes: u64, _snooped: bool) -> Option<Block> {
        let frame = TableMemory::alloc(self, usize::try_from(len_bytes).ok()?)?;
        Some(Block {
            ptr: frame.ptr.cast(),
            phys: frame.phys,
        })
    }

    unsafe fn free(&self, block: Block, len_bytes: u64, _align_bytes: u64, _snooped: bool) {
        let frame = TableRef {
            ptr: block.ptr.cast(),
            phys: block.phys,
        };
        // SAFETY: the frame came from `alloc` above, as the caller promises.
        unsafe { TableMemory::free(self, frame, len_bytes as usize) }
    }
}

// --- The kernel: caches ------------------------------------------------------

/// Counts lines; a kernel has `dc cvac` and `dc ivac` here, and a barrier.
#[derive(Default)]
struct Lines {
    cleaned: AtomicUsize,
    invalidated: AtomicUsize,
}

fn lines(piece: Segment) -> usize {
    const LINE: u64 = 64;
    let end = piece.phys.0 + piece.len_bytes;
    (end.div_ceil(LINE) - piece.phys.0 / LINE) as usize
}

impl CacheOps for Lines {
    fn for_device(&self, piece: Segment, _direction: Direction) {
        self.cleaned.fetch_add(lines(piece), Ordering::Relaxed);
    }

    fn for_cpu(&self, piece: Segment, _direction: Direction) {
        self.invalidated.fetch_add(lines(piece), Ordering::Relaxed);
    }
}

// --- The embedding ----------------------------------------------------------

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    membarrier(MembarrierCommand::RegisterPrivateExpedited)?;
    // SAFETY: `interrupt_all_cpus` is a full barrier on every running thread of
    // the process and on the caller, and does nothing else.
    let fences = unsafe { Fences::custom(interrupt_all_cpus) };
    let slots = Arc::new(Slots::new(CPUS, fences)?);
    let frames = Arc::new(Frames::new());
    // A kernel passes its SMMU here.
    let backend = CountingBackend::new(&slots);
    let domain: Domain<_, _, S1K4, _> = Domain::with_parts(
        DomainConfig::new(Mode::lazy()),
        slots,
        CpuSlots,
        frames.clone(),
        backend,
        (),
    )?;

    thread::scope(|scope| {
        for cpu in 0..CPUS {
            let domain = &domain;
            scope.spawn(move || {
                CPU.set(cpu);
                for request in 0..5000_u64 {
                    let buffer = Segment {
                        phys: PhysAddr(0x8000_0000 + request * 0x2_0000),
                        len_bytes: 0x2_0000,
                    };
                    let mapping = domain
                        .map(&Device::new(), buffer, Direction::FromDevice)
                        .expect("there are frames enough");
                    domain.unmap(mapping).expect("it is ours");
                }
                assert_eq!(PREEMPT_OFF.get(), 0);
            });
        }
    });

    // A ring that CPU and device share for long.
    let ring = domain.alloc_coherent(&Device::new(), frames.clone(), 256)?;
    ring.store_u64(8, 0x8000_0000)?; // the descriptor's content first,
    ring.store_u32(0, 1 << 31)?; // then "yours": the device sees them in this order
    domain.free_coherent(ring)?;

    // A device that does not see the CPU's caches, and a list of two buffers.
    let blind = Device::new().coherent(false).mask_bits(32)?;
    let caches = Lines::default();
    let list = [0x9000_0000, 0x9001_0000].map(|at| Segment {
        phys: PhysAddr(at),
        len_bytes: 2048,
    });
    let mut descriptors = [DmaSegment::EMPTY; 2];
    let way = Direction::FromDevice;
    let mapping = domain.map_list(&blind, &caches, list, &mut descriptors, way)?;
    // ... the device fills them ...
    domain.unmap_list(&caches, mapping)?;
    assert_eq!(caches.cleaned.load(Ordering::Relaxed), 64);
    assert_eq!(caches.invalidated.load(Ordering::Relaxed), 64);

    // The timer interrupt's work, from a context without a CPU number.
    let mut now = TimeNs(0);
    while let Some(due) = domain.next_deadline() {
        now = now.max(due);
        domain.poll(now)?;
    }
    let counts = domain.backend().counts();
    println!(
        "{CPUS} CPUs, 10000 requests of 128 KiB: {} flushes, {} ranges for emptied tables",
        counts.flush_alls, counts.ranges
    );
    assert_eq!(domain.stats().iova_pages_held, 0);
    domain.close()?;
    Ok(())
}
