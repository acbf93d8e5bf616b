//! `vm-memory`'s [`Iommu`] on this core: a virtual machine monitor that gives
//! device back ends (its own threads here, `vhost-user` processes elsewhere) only
//! those pages of the guest that it maps for them.
//!
//! `vm-memory` brings the cache, an [`Iotlb`]. The domain brings the tables, the
//! addresses and the policy, and its [`TlbBackend`] empties that cache. That is
//! all an IOMMU consists of.
//!
//!     cargo run --example vm_memory

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use dmabench_dma::{Device, Direction, DmaSegment, Domain, DomainConfig, Mode, Segment};
use dmabench_flushq::{BackendError, Late, Synced, Ticket, TlbBackend, TlbRange};
use dmabench_pgtable::Prot;
use dmabench_platform::{Fences, Iova, PhysAddr, SlotGuard, Slots, Timeout};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryMmap, Iommu, IommuMemory, Iotlb, Permissions,
    iommu::{Error as IommuError, IotlbFails, IotlbIterator, IovaRange},
};

/// The cache, and how often it was emptied.
#[derive(Debug, Default)]
struct Cache {
    iotlb: RwLock<Iotlb>,
    done: AtomicU64,
}

impl Cache {
    // Nobody panics while changing it, so what a poisoned lock holds is whole.
    fn read(&self) -> RwLockReadGuard<'_, Iotlb> {
        self.iotlb.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Iotlb> {
        self.iotlb.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY:
// * Order: the write lock orders the caller's stores before whoever fills the
//   cache next, which reads the tables under it.
// * Coverage: every byte of each range, or everything.
// * Completion: at once. A translation is used under the read lock, which the
//   iterator holds to the end of the access, so the write lock waits for the
//   accesses that used what goes.
// * Bounded: by the longest access. Failure: there is none.
// * No way back: nothing here knows the domain. (Whoever fills the cache asks
//   the domain under the lock, from a slot of its own: the table below has one
//   for each thread.)
unsafe impl TlbBackend for Cache {
    type Context = ();

    fn invalidate(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        let mut iotlb = self.write();
        for range in ranges {
            iotlb.invalidate_mapping(GuestAddress(range.iova.0), range.len_bytes as usize);
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn invalidate_all(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        (): &(),
    ) -> Result<(), BackendError> {
        self.write().invalidate_all();
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync_begin(&self, _slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        Ok(Ticket(self.done.load(Ordering::Relaxed)))
    }

    fn sync_wait(
        &self,
        _slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        _timeout: Timeout,
    ) -> Result<Synced, Late> {
        // SAFETY: invalidations are complete when they return.
        Ok(unsafe { Synced::new(ticket) })
    }
}

/// What the back ends see: translations, and nothing else of the domain.
struct GuestIommu {
    domain: Domain<Arc<Cache>>,
    cache: Arc<Cache>,
    walks: AtomicU64,
}

impl fmt::Debug for GuestIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.domain.fmt(f)
    }
}

fn permissions(prot: Prot) -> Permissions {
    match (prot.contains(Prot::READ), prot.contains(Prot::WRITE)) {
        (true, true) => Permissions::ReadWrite,
        (true, false) => Permissions::Read,
        (false, true) => Permissions::Write,
        (false, false) => Permissions::No,
    }
}

impl GuestIommu {
    /// Fills the cache for a range, page by page, from the tables.
    fn fill(&self, range: &IovaRange) {
        let page = self.domain.granule().bytes();
        let first = range.base.0 & !(page - 1);
        let last = range.base.0.saturating_add(range.length as u64 - 1);
        // Under the lock from the walk to the entry: an unmap that clears the
        // tables meanwhile invalidates after us.
        let mut iotlb = self.cache.write();
        for at in (first..=last).step_by(page as usize) {
            let Some(found) = self.domain.translate(Iova(at)) else {
                continue;
            };
            self.walks.fetch_add(1, Ordering::Relaxed);
            let (from, to) = (GuestAddress(at), GuestAddress(found.paddr.0));
            // It never fails in this version; a miss would be reported below.
            let _ = iotlb.set_mapping(from, to, page as usize, permissions(found.prot));
        }
    }
}

impl Iommu for GuestIommu {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, IommuError> {
        let whole = || IovaRange { base: iova, length };
        if length == 0 || iova.0.checked_add(length as u64).is_none() {
            return Err(IommuError::CannotResolve {
                iova_range: whole(),
                reason: "it is empty, or does not end in 64 bits".to_owned(),
            });
        }
        let fails = match Iotlb::lookup(self.cache.read(), iova, length, access) {
            Ok(found) => return Ok(found),
            Err(fails) => fails,
        };
        let IotlbFails {
            misses,
            access_fails,
        } = fails;
        for range in misses.iter().chain(&access_fails) {
            self.fill(range);
        }
        Iotlb::lookup(self.cache.read(), iova, length, access).map_err(|_| {
            IommuError::CannotResolve {
                iova_range: whole(),
                reason: "not mapped, or not for this access".to_owned(),
            }
        })
    }
}

type BackEnd = IommuMemory<GuestMemoryMmap<()>, GuestIommu>;

const GUEST_BYTES: usize = 64 << 20;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // 1. The guest's memory, and the domain in front of it.
    let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), GUEST_BYTES)])?;
    let cache = Arc::new(Cache::default());
    let slots = Arc::new(Slots::new(8, Fences::detect())?);
    let domain = Domain::new(
        DomainConfig::new(Mode::Strict),
        slots,
        Arc::clone(&cache),
        (),
    )?;
    let iommu = GuestIommu {
        domain,
        cache,
        walks: AtomicU64::new(0),
    };
    let back_end = BackEnd::new(guest.clone(), iommu, true, ());
    let domain = &back_end.iommu().domain;

    // 2. A request of the guest: two buffers for the back end to fill.
    let device = Device::new();
    let list = [(0x10_0000, 6000), (0x3f_1200, 512)].map(|(at, len_bytes)| Segment {
        phys: PhysAddr(at),
        len_bytes,
    });
    let mut out = [DmaSegment::EMPTY; 2];
    let mapping = domain.map_sg(&device, &list, &mut out, Direction::Bidirectional)?;
    for (segment, at) in list.iter().zip(&out) {
        let data = vec![7; segment.len_bytes as usize];
        back_end.write_slice(&data, GuestAddress(at.addr.0))?;
        let mut seen = vec![0; data.len()];
        guest.read_slice(&mut seen, GuestAddress(segment.phys.0))?;
        assert_eq!(seen, data);
    }
    // What is mapped to be read is not written.
    let page = Segment {
        phys: PhysAddr(0x5000),
        len_bytes: 4096,
    };
    let read_only = domain.map(&device, page, Direction::ToDevice)?;
    let at = GuestAddress(read_only.addr().0);
    assert_eq!(back_end.read_obj::<u64>(at)?, 0);
    assert!(back_end.write_obj(1_u64, at).is_err());
    assert!(back_end.read_obj::<u64>(GuestAddress(0x10_0000)).is_err());

    // 3. Its end: when unmap returns, the back end reaches none of it, although
    //    its cache held all of it.
    let walks = back_end.iommu().walks.load(Ordering::Relaxed);
    domain.unmap(mapping)?;
    domain.unmap(read_only)?;
    for segment in out {
        let gone = back_end.read_obj::<u8>(GuestAddress(segment.addr.0));
        assert!(gone.is_err());
    }
    println!("{walks} pages were walked for, {} invalidations", {
        back_end.iommu().cache.done.load(Ordering::Relaxed)
    });

    // 4. Back ends on other threads, each with requests of its own.
    std::thread::scope(|scope| {
        for number in 1..4_u64 {
            let (back_end, device) = (&back_end, &device);
            scope.spawn(move || {
                for request in 0..500_u64 {
                    let buffer = Segment {
                        phys: PhysAddr((number << 23) + (request << 12)),
                        len_bytes: 4096,
                    };
                    let domain = &back_end.iommu().domain;
                    let mapping = domain
                        .map(device, buffer, Direction::FromDevice)
                        .expect("there is room");
                    let at = GuestAddress(mapping.addr().0);
                    back_end.write_obj(request, at).expect("it is mapped");
                    domain.unmap(mapping).expect("it is ours");
                    let written: u64 = (back_end.get_backend())
                        .read_obj(GuestAddress(buffer.phys.0))
                        .expect("inside the guest");
                    assert_eq!(written, request);
                }
            });
        }
    });
    assert_eq!(domain.stats().live_mappings, 0);
    Ok(())
}
