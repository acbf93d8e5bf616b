//! Bad inputs by the numbers of the safety notes: each a typed error, and the
//! domain as it was.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_flushq::{CountingBackend, QueueConfig, QueueConfigError};
use dmabench_iova::AllocError;
use dmabench_pgtable::{HeapTables, TableConfig, TableMemory, TableRef, format::S1K4};
use dmabench_platform::*;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

const ALL_MODES: [fn() -> Mode; 3] = [|| Mode::Passthrough, || Mode::Strict, Mode::lazy];

/// Runs `attempt` in every mode, and checks that nothing changed.
fn refused(attempt: impl Fn(&TestDomain) -> MapError, expected: MapError) {
    for mode in ALL_MODES {
        let domain = domain(mode());
        let before = domain.stats();
        assert_eq!(attempt(&domain), expected, "{:?}", domain.config().mode);
        assert_eq!(domain.stats(), before);
        domain.close().unwrap();
    }
}

fn map(domain: &TestDomain, device: Device, buffer: Segment) -> MapError {
    domain
        .map(&device, buffer, Direction::FromDevice)
        .unwrap_err()
}

fn map_sg(domain: &TestDomain, device: Device, segments: &[Segment]) -> MapError {
    let mut out = vec![DmaSegment::EMPTY; segments.len()];
    domain
        .map_sg(&device, segments, &mut out, Direction::FromDevice)
        .unwrap_err()
}

#[test]
fn bad_input_47_empty_buffer() {
    refused(
        |domain| map(domain, Device::new(), segment(0x1000, 0)),
        MapError::EmptySegment { index: 0 },
    );
}

#[test]
fn bad_input_48_mask_below_every_address() {
    let device = Device::new().mask_bits(11).unwrap();
    for mode in [Mode::Strict, Mode::lazy()] {
        let domain = domain(mode);
        assert_eq!(
            map(&domain, device, segment(0x1000, 1)),
            MapError::Iova(AllocError::LimitBelowStart)
        );
    }
    let passthrough = domain(Mode::Passthrough);
    assert_eq!(
        map(&passthrough, device, segment(0x1000, 1)),
        MapError::BeyondMask {
            phys: PhysAddr(0x1000)
        }
    );
    assert!(Device::new().mask_bits(0).is_err());
    assert!(Device::new().mask_bits(65).is_err());
}

#[test]
fn bad_input_49_a_mapping_of_another_domain() {
    for mode in ALL_MODES {
        let (own, other) = (domain(mode()), domain(mode()));
        let mapping = own
            .map(&Device::new(), segment(0x1000, 1), Direction::ToDevice)
            .unwrap();
        let Err(UnmapError::OtherDomain(mapping)) = other.unmap(mapping) else {
            panic!("it is not this domain's");
        };
        assert_eq!(mapping.domain_id(), own.id());
        assert_eq!(own.stats().live_mappings, 1);
        own.unmap(mapping).unwrap();
        own.close().unwrap();
    }
}

/// Domains come and go; tokens that outlive theirs stay refused.
#[test]
fn bad_input_49_a_mapping_that_outlived_its_domain() {
    let old = domain(Mode::Strict);
    let mapping = old
        .map(&Device::new(), segment(0x1000, 1), Direction::ToDevice)
        .unwrap();
    drop(old);
    let mut mapping = Some(mapping);
    for _ in 0..20 {
        let new = domain(Mode::Strict);
        let Err(UnmapError::OtherDomain(back)) = new.unmap(mapping.take().unwrap()) else {
            panic!("it is not this domain's");
        };
        mapping = Some(back);
        assert_eq!(new.stats().leaked_mappings, 0);
    }
}

#[test]
fn bad_input_52_lists() {
    let none = Device::new();
    refused(|domain| map_sg(domain, none, &[]), MapError::EmptyList);
    let list = [segment(0x1000, 0x1000), segment(0x5000, 0)];
    refused(
        |domain| map_sg(domain, none, &list),
        MapError::EmptySegment { index: 1 },
    );
    let endless = [segment(0, 1 << 62); 5];
    refused(|domain| map_sg(domain, none, &endless), MapError::TooLong);
    for mode in ALL_MODES {
        assert_eq!(
            map(&domain(mode()), none, segment(0, (1 << 62) + 1)),
            MapError::SegmentTooLong {
                index: 0,
                max_bytes: 1 << 62
            }
        );
    }
    // More than 2^32 bytes in all is no error.
    let domain = domain(Mode::Strict);
    let large = [segment(1 << 33, 3 << 30), segment(1 << 35, 3 << 30)];
    let mut out = [DmaSegment::EMPTY; 2];
    let mapping = domain
        .map_sg(&none, &large, &mut out, Direction::Bidirectional)
        .unwrap();
    assert_eq!(mapping.len_bytes(), 6 << 30);
    domain.unmap(mapping).unwrap();
}

/// Caught by the tables where there are tables.
#[test]
fn bad_input_18_a_buffer_that_wraps() {
    for mode in ALL_MODES {
        let domain = domain(mode());
        let error = map(&domain, Device::new(), segment(u64::MAX, 2));
        assert!(
            matches!(
                error,
                MapError::TooLong | MapError::Tables(dmabench_pgtable::MapError::PhysRange { .. })
            ),
            "{error}"
        );
        domain.close().unwrap();
    }
}

#[test]
fn bad_input_52_out_array_too_short() {
    refused(
        |domain| {
            domain
                .map_sg(
                    &Device::new(),
                    &[segment(0, 1); 3],
                    &mut [DmaSegment::EMPTY; 2],
                    Direction::ToDevice,
                )
                .unwrap_err()
        },
        MapError::OutTooShort { needed: 3 },
    );
}

#[test]
fn device_limits_are_kept() {
    let host = Device::new()
        .max_segment_bytes(64 << 10)
        .and_then(|device| device.max_segments(2))
        .and_then(|device| device.boundary_bytes(512 << 10))
        .unwrap();
    refused(
        |domain| map(domain, host, segment(0, (64 << 10) + 1)),
        MapError::SegmentTooLong {
            index: 0,
            max_bytes: 64 << 10,
        },
    );
    refused(
        |domain| map_sg(domain, host, &[segment(0, 1); 3]),
        MapError::TooManySegments { count: 3, max: 2 },
    );
    let long = Device::new().boundary_bytes(512 << 10).unwrap();
    refused(
        |domain| map(domain, long, segment(0x1000, 513 << 10)),
        MapError::CrossesBoundary {
            index: 0,
            boundary_bytes: 512 << 10,
        },
    );
    // 512 KiB fit, whatever the physical address: the I/O address is aligned.
    for phys in [0, 0x7_f000] {
        let domain = domain(Mode::Strict);
        let mapping = domain
            .map(&long, segment(phys, 512 << 10), Direction::ToDevice)
            .unwrap();
        assert_eq!(mapping.addr().0 & ((512 << 10) - 1), 0);
        domain.unmap(mapping).unwrap();
    }
    assert!(Device::new().boundary_bytes(3).is_err());
    assert!(Device::new().max_segments(0).is_err());
    assert!(Device::new().max_segment_bytes(0).is_err());
}

#[test]
fn bad_input_16_17_physical_addresses_beyond_the_output_size() {
    let mut config = DomainConfig::new(Mode::Strict);
    config.tables = TableConfig::new(48, 48);
    let domain = domain_with(config);
    for phys in [1 << 48, (1 << 48) - 0x1000] {
        let error = map(&domain, Device::new(), segment(phys, 0x2000));
        assert!(
            matches!(
                error,
                MapError::Tables(dmabench_pgtable::MapError::PhysRange { .. })
            ),
            "{error}"
        );
    }
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn bad_input_69_queue_size() {
    let queue = QueueConfig {
        entries_per_slot: 255,
        ..QueueConfig::default()
    };
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let backend = CountingBackend::new(&slots);
    let config = DomainConfig::new(Mode::Lazy(queue));
    assert_eq!(
        Domain::new(config, slots, backend, ()).unwrap_err(),
        DomainError::Queue(QueueConfigError::BadSize {
            entries_per_slot: 255
        })
    );
}

#[test]
fn an_aperture_beyond_the_tables_is_refused() {
    let slots = Arc::new(Slots::new(1, Fences::Symmetric).unwrap());
    let config = DomainConfig::new(Mode::Strict)
        .tables(TableConfig::new(32, 48))
        .aperture(Iova(0), Iova(1 << 32));
    let backend = CountingBackend::new(&slots);
    assert_eq!(
        Domain::new(config, slots, backend, ()).unwrap_err(),
        DomainError::ApertureBeyondTables {
            first: Iova(0),
            last: Iova(u32::MAX.into())
        }
    );
}

#[test]
fn bad_input_68_more_threads_than_slots() {
    let slots = Arc::new(Slots::new(0, Fences::detect()).unwrap());
    let backend = CountingBackend::new(&slots);
    let config = DomainConfig::new(Mode::lazy());
    let domain = Domain::new(config, slots, backend, ()).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..4 {
            let domain = &domain;
            scope.spawn(move || {
                for _ in 0..1000 {
                    let mapping = domain
                        .map(
                            &Device::new(),
                            segment(thread << 30, 1),
                            Direction::ToDevice,
                        )
                        .unwrap();
                    domain.unmap(mapping).unwrap();
                }
            });
        }
    });
    domain.drain().unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
}

#[test]
fn a_request_inside_another_is_refused() {
    let domain = domain(Mode::Strict);
    let mapping = domain
        .map(&Device::new(), segment(0, 1), Direction::ToDevice)
        .unwrap();
    let slots = domain.slots().clone();
    let pin = ThreadSlots.pin();
    let guard = slots.enter_pinned(&pin).unwrap();
    assert_eq!(
        domain
            .map(&Device::new(), segment(0, 1), Direction::ToDevice)
            .unwrap_err(),
        MapError::Reentered
    );
    let Err(UnmapError::Reentered(mapping)) = domain.unmap(mapping) else {
        panic!("the slot is taken");
    };
    drop(guard);
    domain.unmap(mapping).unwrap();
}

/// Memory that runs out after so many tables.
struct Limited {
    left: AtomicUsize,
}

// SAFETY: as `HeapTables`, which does the work.
unsafe impl TableMemory for Limited {
    fn alloc(&self, size_bytes: usize) -> Option<TableRef> {
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .ok()?;
        HeapTables.alloc(size_bytes)
    }

    unsafe fn free(&self, table: TableRef, size_bytes: usize) {
        self.left.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { HeapTables.free(table, size_bytes) }
    }

    unsafe fn phys_to_ptr(&self, phys: PhysAddr) -> std::ptr::NonNull<u64> {
        // SAFETY: as the caller promises.
        unsafe { HeapTables.phys_to_ptr(phys) }
    }
}

/// Every allocation fails in turn (attacker E): the mapping fails whole, and
/// what waits to be freed is used before it does.
#[test]
fn a5_a_map_without_table_memory_gives_the_addresses_back() {
    for tables in 1..8 {
        let slots = Arc::new(Slots::new(1, Fences::detect()).unwrap());
        let backend = CountingBackend::new(&slots);
        let memory = Limited {
            left: AtomicUsize::new(tables),
        };
        let domain = Domain::<_, _, S1K4, _>::with_parts(
            DomainConfig::new(Mode::Strict),
            slots,
            ThreadSlots,
            memory,
            backend,
            (),
        )
        .unwrap();
        let mut mapped = 0;
        // Each takes a table for pages, and gives it up whole.
        for _ in 0..200 {
            match domain.map(
                &Device::new(),
                segment(0x1000, 2 << 20),
                Direction::ToDevice,
            ) {
                Ok(mapping) => {
                    mapped += 1;
                    domain.unmap(mapping).unwrap();
                }
                Err(error) => {
                    assert_eq!(
                        error,
                        MapError::Tables(dmabench_pgtable::MapError::OutOfTables)
                    );
                    assert_eq!(domain.stats().iova_pages_held, 0);
                }
            }
        }
        // Root, two tables above, one for the pages.
        assert_eq!(mapped, if tables >= 4 { 200 } else { 0 }, "{tables} tables");
    }
}
