//! Memory that CPU and device share, and lists with cache maintenance.

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use common::{
    host::{Caches, Call},
    *,
};
use dmabench_dma::*;
use dmabench_platform::*;

/// Heap blocks, counted; and one that is asked while the device must not have
/// them any more.
#[derive(Clone, Default)]
struct Blocks {
    live: Arc<AtomicUsize>,
    snooped: Arc<Mutex<Vec<bool>>>,
    shift: u64,
}

// SAFETY: `HeapBlocks` does the work. With `shift` it breaks the promise of
// alignment, on the physical side only, to be refused.
unsafe impl BlockMemory for Blocks {
    fn alloc(&self, len_bytes: u64, align_bytes: u64, snooped: bool) -> Option<Block> {
        self.snooped.lock().unwrap().push(snooped);
        let mut block = HeapBlocks.alloc(len_bytes, align_bytes, true)?;
        block.phys.0 += self.shift;
        self.live.fetch_add(1, Ordering::SeqCst);
        Some(block)
    }

    unsafe fn free(&self, block: Block, len_bytes: u64, align_bytes: u64, _snooped: bool) {
        self.live.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: as the caller promises; only `ptr` is used.
        unsafe { HeapBlocks.free(block, len_bytes, align_bytes, true) }
    }
}

#[test]
fn s2_a_block_is_freed_after_the_invalidation_in_every_mode() {
    for mode in [Mode::Strict, Mode::lazy(), Mode::Passthrough] {
        let domain = domain(mode);
        let memory = Blocks::default();
        let block = domain
            .alloc_coherent(&Device::new(), memory.clone(), 5000)
            .unwrap();
        assert_eq!(block.len_bytes(), 8192, "whole granules");
        let mut bytes = [1; 8192];
        block.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 8192], "zeroed");
        let pages = [block.addr(), Iova(block.addr().0 + PAGE)];
        if mode != Mode::Passthrough {
            assert!(
                pages
                    .iter()
                    .all(|page| domain.backend().touch(*page).is_some())
            );
            for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
                domain.backend().inject(fault);
            }
        }
        let mut block = Some(block);
        let mut tries = 0;
        while let Err(error) = domain.free_coherent(block.take().unwrap()) {
            assert!(matches!(error.reason, NotUnmappedReason::NotInvalidated(_)));
            assert_eq!(memory.live.load(Ordering::SeqCst), 1, "still the device's");
            block = Some(error.mapping);
            tries += 1;
        }
        assert_eq!(tries, if mode == Mode::Passthrough { 0 } else { 3 });
        assert_eq!(memory.live.load(Ordering::SeqCst), 0);
        assert_eq!(stale(&domain, &pages), 0);
        domain.drain().unwrap();
        assert_eq!(domain.stats().iova_pages_held, 0);
        domain.close().unwrap();
    }
}

#[test]
fn words_and_bytes_inside_the_block_only() {
    let domain = domain(Mode::Strict);
    let block = domain
        .alloc_coherent(&Device::new(), HeapBlocks, 1)
        .unwrap();
    block.store_u32(4, 0x8765_4321).unwrap();
    block.store_u64(4088, u64::MAX).unwrap();
    block.write(6, &[0xaa, 0xbb]).unwrap();
    assert_eq!(block.load_u32(4), Ok(0xbbaa_4321));
    assert_eq!(block.load_u64(4088), Ok(u64::MAX));
    // What the device sees is this memory.
    let reached = domain.backend().touch(block.addr()).unwrap();
    assert_eq!(reached.0, block.as_ptr().as_ptr() as u64);
    for (offset_bytes, len_bytes) in [(2, 4), (4096, 4), (4094, 4), (u64::MAX, 4)] {
        assert_eq!(
            block.load_u32(offset_bytes),
            Err(OutsideBlock {
                offset_bytes,
                len_bytes
            })
        );
        assert!(block.store_u32(offset_bytes, 1).is_err());
    }
    assert!(block.load_u64(4).is_err() && block.store_u64(4092, 0).is_err());
    assert!(block.read(4095, &mut [0; 2]).is_err() && block.write(u64::MAX, &[0; 2]).is_err());
    domain.free_coherent(block).unwrap();
    domain.close().unwrap();
}

#[test]
fn bad_blocks_are_refused_and_given_back() {
    let domain = domain(Mode::Strict);
    let alloc = |device: Device, memory: Blocks, len| {
        let refused = domain
            .alloc_coherent(&device, memory.clone(), len)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(memory.live.load(Ordering::SeqCst), 0);
        refused
    };
    let any = Device::new();
    for len_bytes in [0, (1 << 62) + 1, u64::MAX] {
        assert_eq!(
            alloc(any, Blocks::default(), len_bytes),
            CoherentError::Length { len_bytes }
        );
    }
    assert_eq!(
        alloc(any, Blocks::default(), 1 << 61),
        CoherentError::NoMemory
    );
    let crooked = Blocks {
        shift: 8,
        ..Blocks::default()
    };
    assert_eq!(alloc(any, crooked, 1), CoherentError::Misaligned);
    let short = any.mask_bits(11).unwrap();
    assert!(matches!(
        alloc(short, Blocks::default(), 1),
        CoherentError::Map(MapError::Iova(_))
    ));
    // The limits of descriptors are not for blocks.
    let limited = any
        .max_segment_bytes(512)
        .unwrap()
        .boundary_bytes(512)
        .unwrap();
    let block = domain.alloc_coherent(&limited, HeapBlocks, 9000).unwrap();
    domain.free_coherent(block).unwrap();
    assert_eq!(domain.stats().live_mappings, 0);
    domain.close().unwrap();
}

#[test]
fn a_device_that_does_not_snoop_gets_uncached_memory_or_none() {
    let domain = domain(Mode::Strict);
    let blind = Device::new().coherent(false);
    let memory = Blocks::default();
    let block = domain.alloc_coherent(&blind, memory.clone(), 1).unwrap();
    assert_eq!(*memory.snooped.lock().unwrap(), [false]);
    let prot = domain.translate(block.addr()).unwrap().prot;
    assert!(!prot.contains(dmabench_pgtable::Prot::CACHE));
    domain.free_coherent(block).unwrap();
    let refused = domain.alloc_coherent(&blind, HeapBlocks, 1).map(|_| ());
    assert_eq!(refused, Err(CoherentError::NoMemory));
    domain.close().unwrap();
}

#[test]
fn bad_input_49_a_block_of_another_domain() {
    let (own, other) = (domain(Mode::Strict), domain(Mode::lazy()));
    let block = own.alloc_coherent(&Device::new(), HeapBlocks, 1).unwrap();
    let error = other.free_coherent(block).unwrap_err();
    assert_eq!(error.reason, NotUnmappedReason::OtherDomain);
    own.free_coherent(error.mapping).unwrap();
    own.close().unwrap();
}

#[test]
fn a_dropped_block_stays_the_devices() {
    let domain = domain(Mode::Strict);
    let memory = Blocks::default();
    let block = domain
        .alloc_coherent(&Device::new(), memory.clone(), 1)
        .unwrap();
    let addr = block.addr();
    drop(block);
    assert_eq!(memory.live.load(Ordering::SeqCst), 1);
    assert_eq!(domain.stats().leaked_mappings, 1);
    assert!(domain.translate(addr).is_some());
}

fn list() -> [Segment; 3] {
    [0x1200, 0x8000, 0xf004].map(|phys| Segment {
        phys: PhysAddr(phys),
        len_bytes: 0x104,
    })
}

/// Every combination: which hooks are called, and that the device has its
/// access between them only.
#[test]
fn hooks_are_called_for_devices_that_do_not_snoop() {
    let all = [
        Direction::ToDevice,
        Direction::FromDevice,
        Direction::Bidirectional,
    ];
    for mode in [Mode::Strict, Mode::lazy(), Mode::Passthrough] {
        for direction in all {
            for coherent in [false, true] {
                let domain = domain(mode);
                let device = Device::new().coherent(coherent);
                let caches = Caches::default();
                let mut out = [DmaSegment::EMPTY; 3];
                let mapping = domain
                    .map_list(&device, &caches, list(), &mut out, direction)
                    .unwrap();
                let for_device = list().map(|piece| Call::ForDevice(piece, direction));
                assert_eq!(
                    caches.take(),
                    if coherent {
                        vec![]
                    } else {
                        for_device.to_vec()
                    }
                );
                let back = domain.unmap_list(&caches, mapping).unwrap();
                assert_eq!(back, list());
                let for_cpu = list().map(|piece| Call::ForCpu(piece, direction));
                let none = coherent || direction == Direction::ToDevice;
                assert_eq!(caches.take(), if none { vec![] } else { for_cpu.to_vec() });
                domain.close().unwrap();
            }
        }
    }
}

#[test]
fn syncs_name_the_bytes_asked_for() {
    let domain = domain(Mode::Strict);
    let device = Device::new().coherent(false);
    let caches = Caches::default();
    let list = list();
    let mut out = [DmaSegment::EMPTY; 3];
    let both = Direction::Bidirectional;
    let mapping = domain
        .map_list(&device, &caches, &list, &mut out, both)
        .unwrap();
    caches.take();
    domain
        .sync_for_cpu(&caches, &mapping, 0x102, 0x106)
        .unwrap();
    let part = |phys, len_bytes| Segment {
        phys: PhysAddr(phys),
        len_bytes,
    };
    assert_eq!(
        caches.take(),
        [
            Call::ForCpu(part(0x1302, 2), both),
            Call::ForCpu(part(0x8000, 0x104), both)
        ]
    );
    domain.sync_for_device(&caches, &mapping, 0x30b, 1).unwrap();
    assert_eq!(caches.take(), [Call::ForDevice(part(0xf107, 1), both)]);
    let beyond = SyncError::Beyond { len_bytes: 0x30c };
    assert_eq!(
        domain.sync_for_cpu(&caches, &mapping, 0x30c, 1),
        Err(beyond)
    );
    assert_eq!(
        domain.sync_for_device(&caches, &mapping, u64::MAX, u64::MAX),
        Err(beyond)
    );
    let other = self::domain(Mode::Strict);
    assert_eq!(
        other.sync_for_cpu(&caches, &mapping, 0, 1),
        Err(SyncError::OtherDomain)
    );
    let error = other.unmap_list(&caches, mapping).unwrap_err();
    assert_eq!(error.reason, NotUnmappedReason::OtherDomain);
    // An unmap that did not finish: no hook before it has.
    domain.backend().inject(Fault::Late);
    let error = domain.unmap_list(&caches, error.mapping).unwrap_err();
    assert!(matches!(error.reason, NotUnmappedReason::NotInvalidated(_)));
    assert_eq!(
        domain.sync_for_cpu(&caches, &error.mapping, 0, 1),
        Err(SyncError::NotMapped)
    );
    assert_eq!(caches.take(), []);
    domain.unmap_list(&caches, error.mapping).unwrap();
    assert_eq!(caches.take().len(), 3);
    domain.close().unwrap();
}
