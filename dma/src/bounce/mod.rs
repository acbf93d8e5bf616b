//! Bouncing: the device works on copies, in memory that holds nothing else.
//!
//! A mapping ends at a granule (4 KiB, say), a buffer anywhere: whoever maps the
//! buffer in place shows the device its neighbours in the first and the last
//! granule, in strict mode too (L3). [`BounceDomain`] copies what must not be
//! shown into *slots*, whole granules of a pool that the embedder gives.
//!
//! # Three policies
//!
//! * [`BouncePolicy::Partial`]: heads and tails that do not fill their granule
//!   are bounced, the granules between are mapped in place. What Linux does for
//!   untrusted devices. Slots and granules together are one strict mapping, so
//!   **slots are mapped for one request at a time**: nothing else would make one
//!   run of I/O addresses of them.
//! * [`BouncePolicy::Everything`]: all data is copied, and **the pool is mapped
//!   once, for good**. A map costs a copy and an unmap costs a copy, and neither
//!   an invalidation: Markuze, Morrison and Tsafrir (ASPLOS'16) called these
//!   shadow buffers and found them cheaper than strict unmapping for all but
//!   large buffers. The device can reach the whole pool at any time. What it
//!   finds there are copies of what this domain's devices were given, or wrote:
//!   never a byte that none of them was meant to see, never the caller's memory
//!   itself. It may change a copy until it is copied out, once, at the unmap;
//!   what the caller then checks stays as checked.
//!
//! * [`BouncePolicy::Small`]: lists of few whole granules are copied as with
//!   *Everything*, the others are mapped as with *Partial*: copying beats a strict
//!   unmap for small lists, and costs memory bandwidth for large ones. What is
//!   decided is only where a list's bytes lie, never what the device may see: in
//!   place it is given whole granules of the list and nothing else, for this list
//!   alone, and loses them before the unmap returns; heads and tails are slots
//!   with zeros around them. The pool is mapped for good here, too, so the device
//!   reaches those slots until they are copied out as it does the others.
//!
//! # What a slot holds
//!
//! * Before the device is given a slot, every byte of it that is not the
//!   request's is zero, so neither neighbours nor what an earlier request left
//!   behind is in reach through it (Linux zeroes the padding since 2650073f1b58).
//! * The device will write ([`Direction::FromDevice`](crate::Direction)): all of
//!   the slot is zero. The caller's old data is not shown, and where the device
//!   writes less than the buffer the caller gets zeros: neither the data of an
//!   earlier request (CVE-2022-0854) nor what was in the buffer. (Linux copies
//!   the buffer in, so that such a caller keeps its bytes; that shows them to the
//!   device.)
//! * The device reads (`ToDevice`): copied in by the map, nothing copied back.
//!   `Bidirectional`: both.
//! * A slot keeps the offset that the buffer has in its granule, so that a
//!   device sees the alignment it would see without bouncing.
//!
//! The types hold the order: a slot is freed by an unmap that has copied out,
//! and, where it was mapped for the request, only after the invalidation has
//! completed. An unmap that does not finish hands everything back
//! ([`NotUnmapped`]).

mod error;
mod layout;
mod pool;
mod tally;
mod transfer;

use core::fmt;

use dmabench_flushq::{Flushed, TlbBackend};
use dmabench_pgtable::{Format, Registers, TableMemory, Translation};
use dmabench_platform::{BlockMemory, CpuMemory, Granule, Iova, SlotSource, TimeNs};

pub use error::{BounceError, BounceSetupError, BounceSetupReason};
pub use tally::BounceCounts;
pub use transfer::Bounced;

use crate::{
    CacheOps, CloseError, CloseReason, Coherent, CoherentError, Device, Direction, Domain,
    DomainStats, FlushError, Mode, NoCacheOps, NotUnmapped, NotUnmappedReason, Segment,
    held::{Held, When},
};
use pool::Pool;
use tally::Tally;

/// What goes through the pool. The [module](crate::bounce) compares the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BouncePolicy {
    /// Granules that the buffer does not fill.
    Partial,
    /// Everything.
    Everything,
    /// Everything of lists with fewer than so many bytes in granules they fill;
    /// of the others, granules that they do not fill. A list of many small pieces
    /// is copied however long it is.
    Small {
        /// The fewest bytes worth a mapping. What that is depends on what an
        /// invalidation takes: `docs/mapping.md` has measurements.
        below_bytes: u64,
    },
}

/// Set-up of a [`BounceDomain`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BounceConfig {
    /// What goes through the pool.
    pub policy: BouncePolicy,
    /// The memory of the slots: whole granules that belong to the domain until
    /// [`close`](BounceDomain::close) has succeeded. (A domain that is merely
    /// dropped says nothing: if its last invalidation fails, devices still reach
    /// them.) Nobody else may read or write them, or hand them to this domain as a
    /// buffer.
    pub pool: Segment,
    /// The mask and the coherence that every device of the domain has at least.
    /// The pool is mapped for it, but with [`BouncePolicy::Partial`].
    pub device: Device,
}

impl BounceConfig {
    /// The policy and the pool, for coherent devices without a limit.
    pub const fn new(policy: BouncePolicy, pool: Segment) -> Self {
        BounceConfig {
            policy,
            pool,
            device: Device::new(),
        }
    }

    /// Sets [`device`](Self::device).
    #[must_use]
    pub const fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }
}

/// A strict domain whose devices see copies. It owns the [`Domain`] and gives no
/// way to relax it.
///
/// `H` copies, `C` maintains caches for devices that do not see the CPU's. All
/// methods take `&self` and may be called by any number of threads; copies run
/// outside of every section.
pub struct BounceDomain<B, S, F, M, H, C = NoCacheOps>
where
    B: TlbBackend,
    S: SlotSource,
    F: Format,
    M: TableMemory,
    H: CpuMemory,
    C: CacheOps,
{
    /// The pool's own mapping, where there is one. Before the domain, which
    /// counts what is dropped.
    window: Option<Held>,
    domain: Domain<B, S, F, M>,
    pool: Pool,
    tally: Tally,
    host: H,
    caches: C,
    config: BounceConfig,
}

/// Figures of a [`BounceDomain`]. Exact while no call is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BounceStats {
    /// The domain's; the pool's own mapping is not among the mappings.
    pub domain: DomainStats,
    /// Length of the pool in bytes.
    pub pool_bytes: u64,
    /// Bytes of slots in use, rounding to cached sizes included.
    pub pool_bytes_held: u64,
    /// What was copied and what was mapped in place.
    pub counts: BounceCounts,
}

impl<B, S, F, M, H, C> BounceDomain<B, S, F, M, H, C>
where
    B: TlbBackend,
    S: SlotSource,
    F: Format,
    M: TableMemory,
    H: CpuMemory,
    C: CacheOps,
{
    /// Bounces for the devices of `domain`.
    ///
    /// # Errors
    ///
    /// [`BounceSetupError`] with the domain.
    pub fn new(
        domain: Domain<B, S, F, M>,
        config: BounceConfig,
        host: H,
        caches: C,
    ) -> Result<Self, BounceSetupError<Domain<B, S, F, M>>> {
        match Self::make_pool(&domain, &config) {
            Ok((window, pool)) => Ok(BounceDomain {
                window,
                tally: Tally::new(domain.slots()),
                domain,
                pool,
                host,
                caches,
                config,
            }),
            Err(reason) => Err(BounceSetupError { domain, reason }),
        }
    }

    fn make_pool(
        domain: &Domain<B, S, F, M>,
        config: &BounceConfig,
    ) -> Result<(Option<Held>, Pool), BounceSetupReason> {
        let strict = matches!(
            domain.mode(),
            Mode::Strict | Mode::StrictBatched | Mode::StrictPipelined
        );
        // What waits for a flush is reachable, whatever the mode is by now.
        if !strict || domain.queued() != 0 {
            return Err(BounceSetupReason::NotStrict);
        }
        let memory = config.pool;
        pool::check::<F>(memory)?;
        if config.policy == BouncePolicy::Partial {
            let pool = Pool::new::<F>(domain.slots(), memory, Iova(memory.phys.0))?;
            return Ok((None, pool));
        }
        let window = domain
            .map(
                &config.device.as_one_segment(),
                memory,
                Direction::Bidirectional,
            )
            .map_err(BounceSetupReason::Map)?;
        match Pool::new::<F>(domain.slots(), memory, window.addr()) {
            Ok(pool) => Ok((Some(Held::Mapped(window)), pool)),
            Err(reason) => {
                // Nothing was used. If the hardware does not answer, the
                // addresses leak, and the domain counts that.
                let _ = domain.unmap(window);
                Err(reason)
            }
        }
    }

    /// What goes through the pool.
    pub fn policy(&self) -> BouncePolicy {
        self.config.policy
    }

    /// The I/O addresses at which devices can always reach the pool; `None`
    /// where slots are mapped one by one.
    pub fn window(&self) -> Option<(Iova, u64)> {
        self.window
            .as_ref()
            .and_then(Held::mapping)
            .map(|window| (window.addr(), window.len_bytes()))
    }

    /// The longest list that may fit, in bytes. (Linux: `dma_max_mapping_size`.)
    pub fn max_mapping_size(&self) -> u64 {
        match self.config.policy {
            BouncePolicy::Everything => self.pool.len_bytes(),
            // Two granules of slots for each segment, however long.
            BouncePolicy::Partial => crate::device::LONGEST_SEGMENT,
            BouncePolicy::Small { below_bytes } if below_bytes > self.pool.len_bytes() => {
                self.pool.len_bytes()
            }
            BouncePolicy::Small { .. } => crate::device::LONGEST_SEGMENT,
        }
    }

    /// As [`Domain::id`].
    pub fn id(&self) -> u64 {
        self.domain.id()
    }

    /// As [`Domain::backend`].
    pub fn backend(&self) -> &B {
        self.domain.backend()
    }

    /// As [`Domain::registers`].
    pub fn registers(&self) -> Registers {
        self.domain.registers()
    }

    /// As [`Domain::granule`].
    pub fn granule(&self) -> Granule {
        F::GRANULE
    }

    /// As [`Domain::opt_mapping_size`].
    pub fn opt_mapping_size(&self) -> u64 {
        self.domain.opt_mapping_size()
    }

    /// As [`Domain::alloc_coherent`]: such blocks are whole granules, so they are
    /// not bounced.
    ///
    /// # Errors
    ///
    /// As [`Domain::alloc_coherent`].
    pub fn alloc_coherent<A: BlockMemory>(
        &self,
        device: &Device,
        memory: A,
        len_bytes: u64,
    ) -> Result<Coherent<A>, CoherentError> {
        self.domain.alloc_coherent(device, memory, len_bytes)
    }

    /// As [`Domain::free_coherent`].
    ///
    /// # Errors
    ///
    /// As [`Domain::free_coherent`].
    pub fn free_coherent<A: BlockMemory>(
        &self,
        coherent: Coherent<A>,
    ) -> Result<(), NotUnmapped<Coherent<A>>> {
        self.domain.free_coherent(coherent)
    }

    /// As [`Domain::reserve`].
    ///
    /// # Errors
    ///
    /// As [`Domain::reserve`].
    pub fn reserve(&self, first: Iova, last: Iova) -> Result<(), dmabench_iova::ReserveError> {
        self.domain.reserve(first, last)
    }

    /// As [`Domain::translate`].
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        self.domain.translate(iova)
    }

    /// As [`Domain::poll`]; trims the caches of slots too.
    ///
    /// # Errors
    ///
    /// As [`Domain::poll`].
    pub fn poll(&self, now: TimeNs) -> Result<Flushed, FlushError> {
        self.pool.trim(now);
        self.domain.poll(now)
    }

    /// As [`Domain::next_deadline`].
    pub fn next_deadline(&self) -> Option<TimeNs> {
        [self.domain.next_deadline(), self.pool.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Figures. Looks into every slot: call it with no request under way on
    /// this thread.
    pub fn stats(&self) -> BounceStats {
        let mut domain = self.domain.stats();
        domain.live_mappings = domain.live_mappings.saturating_sub(self.own_mappings());
        BounceStats {
            domain,
            pool_bytes: self.pool.len_bytes(),
            pool_bytes_held: self.pool.held_bytes(),
            counts: self.tally.sum(),
        }
    }

    fn own_mappings(&self) -> u64 {
        u64::from(
            self.window
                .as_ref()
                .is_some_and(|held| !matches!(held, Held::Gone)),
        )
    }

    /// Takes the pool away from the devices and the domain down. The pool's
    /// memory is the caller's again.
    ///
    /// # Errors
    ///
    /// [`CloseError`] with the domain if mappings are left or an invalidation
    /// did not succeed; the pool stays the domain's.
    pub fn close(mut self) -> Result<(), CloseError<Self>> {
        let mappings = self.domain.live_mappings() - self.own_mappings();
        if mappings != 0 {
            let reason = CloseReason::Mapped { mappings };
            return Err(CloseError {
                domain: self,
                reason,
            });
        }
        if let Some(window) = &mut self.window
            && let Err(reason) = self.domain.unmap_held(window, When::Now)
        {
            let reason = match reason {
                NotUnmappedReason::NotInvalidated(late) => CloseReason::Flush(late),
                NotUnmappedReason::Reentered => CloseReason::Reentered,
                _ => CloseReason::Mapped { mappings: 1 },
            };
            return Err(CloseError {
                domain: self,
                reason,
            });
        }
        let BounceDomain {
            window,
            domain,
            pool,
            tally,
            host,
            caches,
            config,
        } = self;
        domain.close().map_err(|error| CloseError {
            domain: BounceDomain {
                window,
                domain: error.domain,
                pool,
                tally,
                host,
                caches,
                config,
            },
            reason: error.reason,
        })
    }
}

impl<B, S, F, M, H, C> fmt::Debug for BounceDomain<B, S, F, M, H, C>
where
    B: TlbBackend,
    S: SlotSource,
    F: Format,
    M: TableMemory,
    H: CpuMemory,
    C: CacheOps,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BounceDomain")
            .field("domain", &self.domain)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
