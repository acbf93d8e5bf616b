//! How a domain is set up.

use core::fmt;

use dmabench_flushq::{QueueConfig, QueueConfigError};
use dmabench_iova::{CachedSizes, Policy};
use dmabench_pgtable::{CreateError, ReclaimPolicy, TableConfig};
use dmabench_platform::{Granule, Iova, Timeout};

/// What happens between an unmap and the reuse of what it freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// No translation: the device uses physical addresses and can reach all
    /// memory. Linux: `identity`.
    Passthrough,
    /// Each unmap invalidates and waits; when it returns, the device cannot
    /// reach the buffer (S1 to S3). Linux: `DMA`.
    Strict,
    /// Strict, for owners that see several completions at once: one sync and a few
    /// invalidations for all of them
    /// ([`Domain::unmap_batch`](crate::Domain::unmap_batch)), contiguous addresses
    /// for what is mapped together ([`Window`](crate::Window)). A single
    /// [`unmap`](crate::Domain::unmap) is as in `Strict`.
    StrictBatched,
    /// Strict, for owners that have the next request ready: the sync of one
    /// request overlaps with the transfer of the next
    /// ([`Domain::unmap_begin`](crate::Domain::unmap_begin)). A single
    /// [`unmap`](crate::Domain::unmap) is as in `Strict`.
    StrictPipelined,
    /// An unmap returns at once; one invalidation serves many. Until it has
    /// completed the device can still reach the buffer, at most as long as
    /// [`QueueConfig`] says (L1). Addresses and tables are held back until then
    /// (L2). Each slot has a ring of its own. Linux: `DMA-FQ`.
    Lazy(QueueConfig),
    /// Lazy with one ring for all slots: fewer flushes and a longer window, and
    /// one locked instruction for each unmap. Linux: the single queue of
    /// `IOMMU_DMA_OPTS_SINGLE_QUEUE`.
    LazySingle(QueueConfig),
    /// Lazy, and the *buffer* waits too: the owner hands it over with
    /// [`Domain::unmap_parked`](crate::Domain::unmap_parked) and gets it back
    /// after the flush. So nothing is exposed, for the price of memory. A plain
    /// [`unmap`](crate::Domain::unmap), which leaves the buffer with the caller,
    /// is strict.
    LazyParked(QueueConfig),
}

impl Mode {
    /// [`Mode::Lazy`] with Linux's figures: 256 entries per slot, 10 ms.
    pub const fn lazy() -> Self {
        Mode::Lazy(QueueConfig::PER_SLOT)
    }

    /// [`Mode::LazySingle`] with Linux's figures: 32768 entries, 1 s.
    pub const fn lazy_single() -> Self {
        Mode::LazySingle(QueueConfig::SINGLE)
    }

    /// [`Mode::LazyParked`] with the figures of [`lazy`](Self::lazy).
    pub const fn lazy_parked() -> Self {
        Mode::LazyParked(QueueConfig::PER_SLOT)
    }

    /// The name reports use.
    pub const fn name(&self) -> &'static str {
        match self {
            Mode::Passthrough => "passthrough",
            Mode::Strict => "strict",
            Mode::StrictBatched => "strict-batched",
            Mode::StrictPipelined => "strict-pipelined",
            Mode::Lazy(_) => "lazy",
            Mode::LazySingle(_) => "lazy-single",
            Mode::LazyParked(_) => "lazy-parked",
        }
    }

    /// Whether a buffer may be reachable after its unmap has returned: only then
    /// does the order of lazy and strict matter for safety.
    pub const fn exposes(&self) -> bool {
        matches!(
            self,
            Mode::Lazy(_) | Mode::LazySingle(_) | Mode::Passthrough
        )
    }

    /// The flush queue's shape, in the lazy modes.
    pub const fn queue(&self) -> Option<QueueConfig> {
        match self {
            Mode::Lazy(queue) | Mode::LazySingle(queue) | Mode::LazyParked(queue) => Some(*queue),
            _ => None,
        }
    }
}

/// Set-up of a [`Domain`](crate::Domain). What each field is without a call that
/// sets it stands at its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DomainConfig {
    /// What happens between an unmap and the reuse of what it freed, to begin
    /// with: [`Domain::mode`](crate::Domain::mode) has what it is now.
    pub mode: Mode,
    /// Shape of the translation tables. 48 bits of input and of output, which a
    /// smaller IOMMU refuses: take what it supports.
    pub tables: TableConfig,
    /// First and last address to hand out; `None`: all that the tables can
    /// translate, but for the first granule, so that address 0 stays invalid.
    /// `None`. Regions that the device cannot use (an interrupt controller's
    /// window) are taken out by [`Domain::reserve`](crate::Domain::reserve).
    pub aperture: Option<(Iova, Iova)>,
    /// Use addresses above 4 GiB only when none below is free. Off; Linux does it
    /// for PCI devices.
    pub low32_first: bool,
    /// Which of several fitting addresses is taken. The highest.
    pub policy: Policy,
    /// Up to which size IOVA ranges are cached per slot. 2 MiB, less in a small
    /// aperture.
    pub cached: CachedSizes,
    /// How long one invalidation may take before it counts as late. One second.
    pub sync_timeout: Timeout,
    /// When [`Domain::poll`](crate::Domain::poll) looks for tables that were
    /// emptied piece by piece and frees them; `None`: never. After 100 ms of
    /// quiet, or beyond 64 MiB of tables.
    pub reclaim: Option<ReclaimPolicy>,
}

impl DomainConfig {
    /// The mode, and what the fields say.
    pub const fn new(mode: Mode) -> Self {
        DomainConfig {
            mode,
            tables: TableConfig::new(48, 48),
            aperture: None,
            low32_first: false,
            policy: Policy::HighestFirst,
            cached: CachedSizes::Auto,
            sync_timeout: Timeout::DEFAULT,
            reclaim: Some(ReclaimPolicy::DEFAULT),
        }
    }

    /// Sets [`tables`](Self::tables).
    #[must_use]
    pub const fn tables(mut self, tables: TableConfig) -> Self {
        self.tables = tables;
        self
    }

    /// Sets [`aperture`](Self::aperture) to `first..=last`.
    #[must_use]
    pub const fn aperture(mut self, first: Iova, last: Iova) -> Self {
        self.aperture = Some((first, last));
        self
    }

    /// Sets [`low32_first`](Self::low32_first).
    #[must_use]
    pub const fn low32_first(mut self, on: bool) -> Self {
        self.low32_first = on;
        self
    }

    /// Sets [`policy`](Self::policy).
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets [`cached`](Self::cached).
    #[must_use]
    pub const fn cached(mut self, cached: CachedSizes) -> Self {
        self.cached = cached;
        self
    }

    /// Sets [`sync_timeout`](Self::sync_timeout).
    #[must_use]
    pub const fn sync_timeout(mut self, timeout: Timeout) -> Self {
        self.sync_timeout = timeout;
        self
    }

    /// Sets [`reclaim`](Self::reclaim).
    #[must_use]
    pub const fn reclaim(mut self, policy: Option<ReclaimPolicy>) -> Self {
        self.reclaim = policy;
        self
    }

    /// The largest mapping whose addresses come from a slot's cache.
    pub(crate) fn opt_mapping_size(&self, granule: Granule) -> u64 {
        match self.cached {
            CachedSizes::None => granule.bytes(),
            CachedSizes::UpToLg2Pages(lg2) => granule.bytes() << lg2.min(30),
            CachedSizes::Auto => 512 << 10,
        }
    }
}

/// Why a domain cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainError {
    /// The addresses.
    Iova(dmabench_iova::ConfigError),
    /// The tables.
    Tables(CreateError),
    /// The flush queue.
    Queue(QueueConfigError),
    /// No memory for the domain's own figures.
    NoMemory,
    /// The aperture holds addresses that the tables cannot translate.
    ApertureBeyondTables {
        /// First address the tables translate.
        first: Iova,
        /// Last address the tables translate.
        last: Iova,
    },
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainError::Iova(error) => error.fmt(f),
            DomainError::Tables(error) => error.fmt(f),
            DomainError::Queue(error) => error.fmt(f),
            DomainError::NoMemory => f.write_str("no memory for the domain: free some"),
            DomainError::ApertureBeyondTables { first, last } => write!(
                f,
                "the tables translate {first} to {last} only; keep the aperture inside"
            ),
        }
    }
}

impl core::error::Error for DomainError {}

/// Why [`Domain::with_context`](crate::Domain::with_context) made no domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextError<E> {
    /// The configuration; no context was asked for.
    Domain(DomainError),
    /// The backend made no context for the tables.
    Context(E),
}

impl<E: fmt::Display> fmt::Display for ContextError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContextError::Domain(error) => error.fmt(f),
            ContextError::Context(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for ContextError<E> {}
