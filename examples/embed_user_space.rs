//! A driver in user space: threads that each move blocks through one lazy domain,
//! a timer thread that polls it, and the device at the other end.
//!
//! The device and its IOMMU are the software SMMU, so that the program runs
//! anywhere; a real driver has its own [`TlbBackend`] (say, over VFIO or a
//! command queue it owns) and physical addresses from its allocator.
//!
//!     cargo run --example embed_user_space

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dmabench_dma::{Device, Direction, DmaSegment, Domain, DomainConfig, Mode, Segment};
use dmabench_pgtable::S1K4;
use dmabench_platform::{
    Clock, Fences, MonotonicClock, PhysAddr, Slots, ThreadSlots, VirtualClock,
};
use dmabench_smmu::soft::{
    SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, StreamConfig,
};

type Driver = Domain<Arc<SoftSmmu>, ThreadSlots, S1K4, Arc<SimMemory>>;

const BLOCK_BYTES: usize = 512;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // 1. The surroundings: memory, the IOMMU, a slot for each thread.
    let memory = SimMemory::new(SimMemoryConfig::default())?;
    let smmu = SoftSmmu::new(
        memory.clone(),
        Arc::new(VirtualClock::default()),
        SoftConfig::default(),
    );
    let slots = Arc::new(Slots::new(16, Fences::detect())?);

    // 2. The domain, and the device attached to it.
    let context = SmmuContext::Stage1 { vmid: 0, asid: 1 };
    let domain: Driver = Domain::with_parts(
        DomainConfig::new(Mode::lazy()),
        slots,
        ThreadSlots,
        memory.clone(),
        smmu.clone(),
        context,
    )?;
    let card = smmu.attach(StreamConfig::for_table(1, &domain.registers()))?;

    // 3. Requests from several threads, and a timer.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let timer = scope.spawn(|| {
            let clock = MonotonicClock::new();
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                // A late flush is not lost: the next poll tries again.
                if let Err(error) = domain.poll(clock.now()) {
                    eprintln!("flush: {error}");
                }
            }
        });
        let workers: Vec<_> = (1..=3)
            .map(|worker| {
                let (domain, memory, card) = (&domain, &memory, &card);
                scope.spawn(move || read_blocks(domain, memory, card, worker))
            })
            .collect();
        for worker in workers {
            worker.join().expect("no worker panics");
        }
        done.store(true, Ordering::Relaxed);
        timer.join().expect("the timer does not panic");
    });

    // 4. The end: everything flushed, then the domain goes.
    domain.drain()?;
    let stats = domain.stats();
    println!(
        "3 threads read 3000 requests; {} flushes for all unmaps; {} bytes of tables",
        stats.flush.flushes, stats.page_table_bytes
    );
    assert_eq!(stats.iova_pages_held, 0);
    assert!(smmu.violations().is_empty());
    domain.close()?;
    Ok(())
}

/// A thousand reads of four blocks that lie anywhere in memory.
fn read_blocks(domain: &Driver, memory: &SimMemory, card: &SimDevice, worker: u64) {
    let host = Device::new().mask_bits(32).expect("32 is a width");
    let base = worker << 30;
    for request in 0..1000_u64 {
        let segments: [Segment; 4] = std::array::from_fn(|i| Segment {
            phys: PhysAddr(base + request * 0x8000 + i as u64 * 0x1a00),
            len_bytes: BLOCK_BYTES as u64,
        });
        let mut descriptors = [DmaSegment::EMPTY; 4];
        let mapping = domain
            .map_sg(&host, &segments, &mut descriptors, Direction::FromDevice)
            .expect("there is room");
        // The card fills the blocks, by the addresses in its descriptors.
        for descriptor in &descriptors {
            let content = [worker as u8; BLOCK_BYTES];
            let transfer = card.write(descriptor.addr, &content).expect("memory");
            assert_eq!(transfer.fault, None);
        }
        domain.unmap(mapping).expect("it is ours");
        for segment in &segments {
            let mut block = [0; BLOCK_BYTES];
            memory.read(segment.phys, &mut block);
            assert_eq!(block, [worker as u8; BLOCK_BYTES]);
        }
    }
}
