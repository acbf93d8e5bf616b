//! Every library crate in a program without `std`: it links, and a request goes
//! through all of them. Only the allocator, `puts` and the start-up code are the C
//! library's.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{boxed::Box, sync::Arc};
use core::{
    alloc::{GlobalAlloc, Layout},
    error::Error,
    ffi::{c_char, c_int, c_void},
    panic::PanicInfo,
    ptr,
};

use dmabench_dma::{Device, Direction, DmaSegment, Domain, DomainConfig, Mode, Segment};
use dmabench_flushq::CountingBackend;
use dmabench_iova::{AllocRequest, IovaConfig, IovaDomain};
use dmabench_pgtable::{HeapTables, S1K4};
use dmabench_platform::{
    Fences, Granule, Iova, OneCpu, PhysAddr, SlotSource, Slots, TimeNs, VirtualClock,
};
use dmabench_smmu::soft::{
    Access, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, StreamConfig,
};

#[link(name = "c")]
unsafe extern "C" {
    fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int;
    fn free(block: *mut c_void);
    fn puts(text: *const c_char) -> c_int;
    fn abort() -> !;
}

struct CAllocator;

// SAFETY: the C library's allocator gives exclusive memory of the size and the
// alignment asked for, and takes it back.
unsafe impl GlobalAlloc for CAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut block = ptr::null_mut();
        let align = layout.align().max(size_of::<usize>());
        // SAFETY: `block` is a place for the result; the alignment is a power of
        // two and a multiple of a pointer's size.
        match unsafe { posix_memalign(&raw mut block, align, layout.size()) } {
            0 => block.cast(),
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: it came from `alloc`, as the caller promises.
        unsafe { free(block.cast()) }
    }
}

#[global_allocator]
static ALLOCATOR: CAllocator = CAllocator;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    // SAFETY: a string that ends in zero; `abort` may always be called.
    unsafe {
        puts(c"no_std: a panic".as_ptr());
        abort()
    }
}

/// What the C start-up code calls.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    match run() {
        Ok(()) => {
            // SAFETY: a string that ends in zero.
            unsafe {
                puts(c"no_std: every library crate links, and a request goes through".as_ptr())
            };
            0
        }
        Err(_) => 1,
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    counted()?;
    simulated()
}

fn one_cpu() -> Result<(Arc<Slots>, OneCpu), Box<dyn Error>> {
    // SAFETY: this program has one thread, no handlers and no second CPU.
    let (fences, source) = unsafe { (Fences::single_cpu(), OneCpu::new()) };
    Ok((Arc::new(Slots::new(1, fences)?), source))
}

/// Addresses alone, then a domain on the counting backend.
fn counted() -> Result<(), Box<dyn Error>> {
    let (slots, source) = one_cpu()?;
    let config = IovaConfig::new(Granule::K4, Iova(0x1000), Iova(u32::MAX.into()));
    let iova = IovaDomain::new(config, slots.clone())?;
    {
        let pin = source.pin();
        let mut slot = slots.enter_pinned(&pin)?;
        let range = iova.alloc(&mut slot, 4, &AllocRequest::default())?;
        iova.free(&mut slot, range)?;
    }

    let backend = CountingBackend::new(&slots);
    let config = DomainConfig::new(Mode::Strict);
    let domain: Domain<_, _, S1K4, _> =
        Domain::with_parts(config, slots, source, HeapTables, backend, ())?;
    let buffer = Segment {
        phys: PhysAddr(0x1234_5000),
        len_bytes: 0x2_0000,
    };
    for _ in 0..1000 {
        let mapping = domain.map(&Device::new(), buffer, Direction::ToDevice)?;
        domain.unmap(mapping)?;
    }
    assert_eq!(domain.backend().counts().syncs, 1000);
    domain.close()?;
    Ok(())
}

/// A lazy domain before the software SMMU: exposed until the flush, not after.
fn simulated() -> Result<(), Box<dyn Error>> {
    let (slots, source) = one_cpu()?;
    let memory = SimMemory::new(SimMemoryConfig::default())?;
    let clock = Arc::new(VirtualClock::default());
    let smmu = SoftSmmu::new(memory.clone(), clock, SoftConfig::default());
    let context = SmmuContext::Stage1 { vmid: 0, asid: 1 };
    let config = DomainConfig::new(Mode::lazy());
    let domain: Domain<_, _, S1K4, _> =
        Domain::with_parts(config, slots, source, memory, smmu.clone(), context)?;
    let device = smmu.attach(StreamConfig::for_table(1, &domain.registers()))?;

    let list = [0x10_0000, 0x30_0000].map(|phys| Segment {
        phys: PhysAddr(phys),
        len_bytes: 0x1000,
    });
    let mut out = [DmaSegment::EMPTY; 2];
    let mapping = domain.map_sg(&Device::new(), &list, &mut out, Direction::ToDevice)?;
    assert!(device.probe(out[1].addr, Access::Read).is_fresh());
    domain.unmap(mapping)?;
    assert!(device.probe(out[1].addr, Access::Read).is_stale());
    let mut now = TimeNs(0);
    while let Some(due) = domain.next_deadline() {
        now = now.max(due);
        domain.poll(now)?;
    }
    assert!(device.probe(out[1].addr, Access::Read).fault().is_some());
    assert!(smmu.violations().is_empty());
    domain.close()?;
    Ok(())
}
