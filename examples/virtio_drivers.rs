//! `virtio-drivers` on this core: its [`Hal`] by a domain that bounces.
//!
//! A virtio driver shares what it has at hand: a header of 16 bytes on its stack,
//! a status byte next to it, a caller's buffer of any alignment. Mapped in place,
//! each of them would show the device a whole page of the driver's stack or heap.
//! The domain here is strict and bounces what does not fill its pages, so the
//! device sees the bytes it was given and zeros.
//!
//! The device is a disk written below that also looks around as an attacker
//! would; its IOMMU is the software SMMU. Physical addresses are those of the
//! process.
//!
//!     cargo run --example virtio_drivers

use std::{
    collections::HashMap,
    error::Error,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, OnceLock},
};

use dmabench_dma::{
    Coherent, Device, Direction, Domain, DomainConfig, Mode, NoCacheOps, Segment,
    bounce::{BounceConfig, BounceDomain, BouncePolicy, Bounced},
};
use dmabench_pgtable::S1K4;
use dmabench_platform::{
    BlockMemory, CpuMemory, Fences, HeapBlocks, Iova, MemoryError, PhysAddr, Slots, ThreadSlots,
    VirtualClock,
};
use dmabench_smmu::soft::{
    Access, SimDevice, SimMemory, SimMemoryConfig, SmmuContext, SoftConfig, SoftSmmu, StreamConfig,
};
use virtio_drivers::{
    BufferDirection, Hal, PAGE_SIZE,
    device::blk::{SECTOR_SIZE, VirtIOBlk},
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

// --- The platform: the domain, and what the driver has shared ----------------

type Bouncing = BounceDomain<Arc<SoftSmmu>, ThreadSlots, S1K4, Arc<SimMemory>, Arc<Lent>>;

/// `Hal` has no `self`, so there is one of it.
struct Platform {
    domain: Bouncing,
    lent: Arc<Lent>,
    /// By the address the device was told.
    shared: Mutex<HashMap<u64, Bounced<[Segment; 1]>>>,
    blocks: Mutex<HashMap<u64, Coherent<HeapBlocks>>>,
}

static PLATFORM: OnceLock<Platform> = OnceLock::new();

fn platform() -> &'static Platform {
    PLATFORM.get().expect("set up at the start of `main`")
}

/// Memory that may be copied now: the pool, and what the driver shares. Anything
/// else is refused, whoever asks.
#[derive(Default)]
struct Lent(Mutex<Vec<(u64, u64)>>);

impl Lent {
    fn lend(&self, memory: Segment) {
        let range = (memory.phys.0, memory.phys.0 + memory.len_bytes);
        self.0.lock().expect("no one panics with it").push(range);
    }

    fn take_back(&self, memory: Segment) {
        let mut lent = self.0.lock().expect("no one panics with it");
        if let Some(at) = lent.iter().position(|(first, _)| *first == memory.phys.0) {
            lent.swap_remove(at);
        }
    }

    fn pointer(&self, at: PhysAddr, len_bytes: u64) -> Result<*mut u8, MemoryError> {
        let lent = self.0.lock().expect("no one panics with it");
        let inside = |(first, end): &(u64, u64)| {
            at.0 >= *first && at.0.checked_add(len_bytes).is_some_and(|last| last <= *end)
        };
        if !lent.iter().any(inside) {
            return Err(MemoryError::NotMemory {
                phys: at,
                len_bytes,
            });
        }
        Ok(ptr::with_exposed_provenance_mut(at.0 as usize))
    }
}

impl CpuMemory for Lent {
    fn copy(&self, from: PhysAddr, to: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let (from, to) = (self.pointer(from, len_bytes)?, self.pointer(to, len_bytes)?);
        // SAFETY: both are inside memory that is lent: the pool, which is leaked
        // and the domain's, or a buffer between `share` and `unshare`, which the
        // caller of those keeps valid and does not touch meanwhile. The device
        // below runs on this thread, inside `notify`.
        unsafe { ptr::copy(from, to, len_bytes as usize) };
        Ok(())
    }

    fn zero(&self, at: PhysAddr, len_bytes: u64) -> Result<(), MemoryError> {
        let at = self.pointer(at, len_bytes)?;
        // SAFETY: as in `copy`.
        unsafe { at.write_bytes(0, len_bytes as usize) };
        Ok(())
    }
}

// --- The trait ---------------------------------------------------------------

struct IommuHal;

fn segment(buffer: NonNull<[u8]>) -> Segment {
    Segment {
        phys: PhysAddr(buffer.cast::<u8>().as_ptr().expose_provenance() as u64),
        len_bytes: buffer.len() as u64,
    }
}

fn direction(direction: BufferDirection) -> Direction {
    match direction {
        BufferDirection::DriverToDevice => Direction::ToDevice,
        BufferDirection::DeviceToDriver => Direction::FromDevice,
        BufferDirection::Both => Direction::Bidirectional,
    }
}

// SAFETY: `dma_alloc` gives zeroed whole pages of the heap that are nobody else's
// until `dma_dealloc`; there is no MMIO.
unsafe impl Hal for IommuHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (u64, NonNull<u8>) {
        let platform = platform();
        let bytes = (pages * PAGE_SIZE) as u64;
        let block = match platform
            .domain
            .alloc_coherent(&Device::new(), HeapBlocks, bytes)
        {
            Ok(block) => block,
            // How this trait says "no memory".
            Err(_) => return (0, NonNull::dangling()),
        };
        let (addr, pointer) = (block.addr().0, block.as_ptr());
        platform.blocks.lock().expect("whole").insert(addr, block);
        (addr, pointer)
    }

    unsafe fn dma_dealloc(paddr: u64, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        let platform = platform();
        let Some(block) = platform.blocks.lock().expect("whole").remove(&paddr) else {
            return -1;
        };
        match platform.domain.free_coherent(block) {
            Ok(()) => 0,
            // The device may still reach it, so it is not freed (A11).
            Err(error) => {
                eprintln!("{error}");
                -1
            }
        }
    }

    unsafe fn mmio_phys_to_virt(_paddr: u64, _size: usize) -> NonNull<u8> {
        unreachable!("the transport below has no registers in memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, way: BufferDirection) -> u64 {
        let platform = platform();
        let memory = segment(buffer);
        platform.lent.lend(memory);
        let bounced = platform
            .domain
            .map(&Device::new(), memory, direction(way))
            .expect("the pool holds more than a queue's worth of slots");
        let addr = bounced.addr().0;
        platform.shared.lock().expect("whole").insert(addr, bounced);
        addr
    }

    unsafe fn unshare(paddr: u64, buffer: NonNull<[u8]>, _way: BufferDirection) {
        let platform = platform();
        let bounced = platform.shared.lock().expect("whole").remove(&paddr);
        let mut left = bounced;
        while let Some(bounced) = left.take() {
            // Until this is `Ok` the driver must not go on with the buffer.
            if let Err(error) = platform.domain.unmap(bounced) {
                eprintln!("{error}");
                left = Some(error.mapping);
            }
        }
        platform.lent.take_back(segment(buffer));
    }
}

// --- The device: a disk that looks around --------------------------------------

/// The device's end: what it reads and writes goes through the SMMU.
struct Port(SimDevice);

/// The SMMU stopped it.
#[derive(Debug)]
struct Fault;

impl Port {
    /// Calls `f` for each page of the range, with the process's pointer and the
    /// place in the range.
    fn pages(
        &self,
        at: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = at + done as u64;
            let now = (len - done).min(PAGE_SIZE - at as usize % PAGE_SIZE);
            let phys = self.0.probe(Iova(at), access).phys().ok_or(Fault)?;
            f(ptr::with_exposed_provenance_mut(phys.0 as usize), done, now);
            done += now;
        }
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.pages(at, into.len(), Access::Read, |from, place, len| {
            // SAFETY: the SMMU lets the device reach mapped memory only: blocks
            // and slots of the heap, and the driver's buffers while they are
            // shared; the driver waits in `notify` meanwhile.
            unsafe { ptr::copy_nonoverlapping(from, into[place..].as_mut_ptr(), len) }
        })
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Fault> {
        self.pages(at, from.len(), Access::Write, |to, place, len| {
            // SAFETY: as in `read`.
            unsafe { ptr::copy_nonoverlapping(from[place..].as_ptr(), to, len) }
        })
    }

    fn number<const N: usize>(&self, at: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes[..N])?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// A virtio block device with one queue (virtio 1.2, 5.2).
struct Disk {
    port: Port,
    sectors: Vec<u8>,
    status: DeviceStatus,
    /// Size, and where descriptors, driver area and device area are.
    queue: Option<(u64, [u64; 3])>,
    seen: u16,
    /// Bytes beside a request's header that were not zero.
    foreign_bytes: usize,
}

const VERSION_1: u64 = 1 << 32;
const WRITES: u64 = 2;
const MORE: u64 = 1;

impl Disk {
    fn work(&mut self) -> Result<(), Fault> {
        let Some((size, [descriptors, driver, device])) = self.queue else {
            return Ok(());
        };
        while u64::from(self.seen) != self.port.number::<2>(driver + 2)? {
            let place = u64::from(self.seen) % size;
            let head = self.port.number::<2>(driver + 4 + 2 * place)?;
            let mut chain = Vec::new();
            let mut next = Some(head);
            while let Some(index) = next.filter(|_| chain.len() < size as usize) {
                let at = descriptors + 16 * index;
                let flags = self.port.number::<2>(at + 12)?;
                let len = self.port.number::<4>(at + 8)?;
                chain.push((
                    self.port.number::<8>(at)?,
                    len as usize,
                    flags & WRITES != 0,
                ));
                next = match flags & MORE {
                    0 => None,
                    _ => Some(self.port.number::<2>(at + 14)?),
                };
            }
            let written = self.request(&chain)?;
            self.port
                .write(device + 4 + 8 * place, &(head as u32).to_le_bytes())?;
            self.port
                .write(device + 8 + 8 * place, &(written as u32).to_le_bytes())?;
            self.seen = self.seen.wrapping_add(1);
            self.port.write(device + 2, &self.seen.to_le_bytes())?;
        }
        Ok(())
    }

    /// Header, data, status byte. Says how many bytes it wrote.
    fn request(&mut self, chain: &[(u64, usize, bool)]) -> Result<usize, Fault> {
        let [(header, ..), data @ .., (status, ..)] = chain else {
            return Ok(0);
        };
        self.look_around(*header)?;
        let kind = self.port.number::<4>(*header)?;
        let mut at = self.port.number::<8>(header + 8)? as usize * SECTOR_SIZE;
        let (mut written, mut answer) = (1, 0_u8);
        for &(addr, len, to_driver) in data {
            match self.sectors.get_mut(at..at + len) {
                Some(sectors) if kind == 0 && to_driver => {
                    self.port.write(addr, sectors)?;
                    written += len;
                }
                Some(sectors) if kind == 1 && !to_driver => self.port.read(addr, sectors)?,
                _ => answer = 1,
            }
            at += len;
        }
        self.port.write(*status, &[answer])?;
        Ok(written)
    }

    /// The attack: what else is in the page of the header, which lies on the
    /// driver's stack?
    fn look_around(&mut self, header: u64) -> Result<(), Fault> {
        let mut page = [0; PAGE_SIZE];
        let first = header & !(PAGE_SIZE as u64 - 1);
        self.port.read(first, &mut page)?;
        let own = (header - first) as usize;
        page[own..own + 16].fill(0);
        self.foreign_bytes += page.iter().filter(|byte| **byte != 0).count();
        Ok(())
    }
}

impl Transport for Disk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        VERSION_1
    }
    fn write_driver_features(&mut self, _driver_features: u64) {}
    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        64
    }
    fn notify(&mut self, _queue: u16) {
        self.work().expect("all of it was shared");
    }
    fn get_status(&self) -> DeviceStatus {
        self.status
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.status = status;
    }
    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _queue: u16, size: u32, descriptors: u64, driver: u64, device: u64) {
        self.queue = Some((u64::from(size), [descriptors, driver, device]));
    }
    fn queue_unset(&mut self, _queue: u16) {
        if let Some((_, [descriptors, ..])) = self.queue.take() {
            println!(
                "the disk met {} foreign bytes around its headers",
                self.foreign_bytes
            );
            assert_eq!(self.foreign_bytes, 0);
            assert!(self.port.number::<8>(descriptors).is_ok(), "still mapped");
        }
    }
    fn queue_used(&mut self, _queue: u16) -> bool {
        self.queue.is_some()
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let mut config = [0; 64];
        let capacity = (self.sectors.len() / SECTOR_SIZE) as u64;
        config[..8].copy_from_slice(&capacity.to_le_bytes());
        (config.get(offset..offset + size_of::<T>()))
            .and_then(|bytes| T::read_from_bytes(bytes).ok())
            .ok_or(virtio_drivers::Error::ConfigSpaceTooSmall)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}

// --- The program ---------------------------------------------------------------

fn set_up() -> Result<Port, Box<dyn Error>> {
    let memory = SimMemory::new(SimMemoryConfig::default())?;
    let clock = Arc::new(VirtualClock::default());
    let smmu = SoftSmmu::new(memory.clone(), clock, SoftConfig::default());
    let domain = Domain::with_parts(
        DomainConfig::new(Mode::Strict),
        Arc::new(Slots::new(4, Fences::detect())?),
        ThreadSlots,
        memory,
        smmu.clone(),
        SmmuContext::Stage1 { vmid: 0, asid: 1 },
    )?;
    let card = smmu.attach(StreamConfig::for_table(1, &domain.registers()))?;

    // 64 slots of a page. Leaked: it is the domain's for good.
    let bytes = 64 * PAGE_SIZE as u64;
    let block = HeapBlocks
        .alloc(bytes, PAGE_SIZE as u64, true)
        .ok_or("no memory for the pool")?;
    let pool = Segment {
        phys: block.phys,
        len_bytes: bytes,
    };
    let lent = Arc::new(Lent::default());
    lent.lend(pool);
    let config = BounceConfig::new(BouncePolicy::Partial, pool);
    let domain = BounceDomain::new(domain, config, lent.clone(), NoCacheOps)?;
    let platform = Platform {
        domain,
        lent,
        shared: Mutex::default(),
        blocks: Mutex::default(),
    };
    assert!(PLATFORM.set(platform).is_ok(), "once");
    Ok(Port(card))
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let port = set_up()?;
    let spy = Port(port.0.clone());
    let disk = Disk {
        port,
        sectors: vec![0; 64 * SECTOR_SIZE],
        status: DeviceStatus::empty(),
        queue: None,
        seen: 0,
        foreign_bytes: 0,
    };
    let mut driver = VirtIOBlk::<IommuHal, _>::new(disk)?;
    assert_eq!(driver.capacity(), 64);

    // Buffers at odd addresses, some longer than a page.
    for (sector, count) in [(0, 1), (3, 17), (40, 24)] {
        let mut memory = vec![0x5a; count * SECTOR_SIZE + 9];
        let data = &mut memory[9..];
        data.iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at / 7) as u8);
        driver.write_blocks(sector, data)?;
        let mut back = vec![0; count * SECTOR_SIZE + 1];
        driver.read_blocks(sector, &mut back[1..])?;
        assert_eq!(back[1..], *data);
        assert_eq!(back[0], 0, "nothing beside the buffer was written");
    }

    let platform = platform();
    let shared = platform.shared.lock().map_err(|_| "poisoned")?.len();
    assert_eq!(shared, 0, "every request was unshared");
    let ring = *(platform.blocks.lock().map_err(|_| "poisoned")?.keys())
        .next()
        .ok_or("the queue is in blocks")?;
    drop(driver);
    assert!(spy.number::<8>(ring).is_err(), "gone with the driver");
    let stats = platform.domain.stats();
    assert_eq!(stats.domain.live_mappings, 0);
    assert_eq!(stats.pool_bytes_held, 0);
    assert!(platform.domain.backend().violations().is_empty());
    println!("6 requests through slots of {} KiB", stats.pool_bytes >> 10);
    Ok(())
}
