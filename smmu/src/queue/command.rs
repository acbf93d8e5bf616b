//! The command queue: reserving, writing, publishing.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{fmt, ptr::NonNull};

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{
    CachePadded, Timeout,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    GlobalErrors, QueueError, QueueSetupError, place::Place, recovery::Recovery, wait::BoundedWait,
};
use crate::{
    SmmuHost,
    format::{Command, Features, RawCommand, check_command, registers},
};

/// How a command queue is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Base-2 logarithm of its entries: 0 to 19, and at most what `IDR1` says.
    pub lg2_entries: u32,
    /// How long a producer waits for room.
    pub full_timeout: Timeout,
}

impl Default for QueueConfig {
    /// 256 entries, one second.
    fn default() -> Self {
        QueueConfig {
            lg2_entries: 8,
            full_timeout: Timeout::DEFAULT,
        }
    }
}

impl QueueConfig {
    /// With `2^lg2` entries.
    pub fn with_entries_lg2(mut self, lg2: u32) -> Self {
        self.lg2_entries = lg2;
        self
    }

    /// With another bound for the wait for room.
    pub fn with_full_timeout(mut self, timeout: Timeout) -> Self {
        self.full_timeout = timeout;
        self
    }
}

/// Whoever passes a multiple of this publishes, sync or not.
const PUBLISH_EVERY: u64 = 256;

const SYNC: RawCommand = Command::SYNC.encode();

/// What a model leaves out on purpose, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    #[cfg(all(test, loom))]
    None,
    /// A batch is marked ready without order.
    ReadyRelaxed,
    /// Positions are handed out without room.
    NoRoomCheck,
    /// Everybody publishes what it has, baton or not.
    NoBaton,
    /// The baton is laid down without a look at whether the batch became ready.
    LayDownBlindly,
    /// A batch that is urgent is passed as if it were not.
    ForgetUrgent,
    /// Positions without room are given back whoever took some behind them.
    GiveBackBlindly,
    /// The time to wait for room begins anew with each attempt.
    FreshTimeout,
    /// A sync is shared although commands lie behind it.
    ShareEarlier,
    /// An illegal command is skipped without failing anybody.
    ForgetLoss,
}

/// Written by whoever has the baton.
#[derive(Debug)]
pub(super) struct Progress {
    /// The [`Place`] that was written to `PROD`.
    pub(super) published: AtomicU64,
    /// The position where the baton was laid down last, or is about to be.
    pub(super) carried: AtomicU64,
}

/// A command queue. See the [module](super) for the protocol.
pub struct CommandQueue<H: SmmuHost, M: TableMemory> {
    pub(super) host: H,
    memory: M,
    table: TableRef,
    bytes: usize,
    /// Entries less one.
    pub(super) mask: u64,
    pub(super) config: QueueConfig,
    pub(super) features: Features,
    /// `2^lg2` commands of two words, shared with the SMMU.
    entries: NonNull<AtomicU64>,
    /// By slot of a batch's first command: the [`Place`] behind its last, or the
    /// baton. A position above that of the first is of this lap, hence of a batch
    /// that is ready.
    ends: Box<[AtomicU64]>,
    /// The next position. Ahead of what there is room for while somebody is about
    /// to give back.
    pub(super) reserved: CachePadded<AtomicU64>,
    pub(super) progress: CachePadded<Progress>,
    /// The consumer has passed everything before this; it may be further.
    pub(super) consumed: CachePadded<AtomicU64>,
    /// Tickets below this one fail; `u64::MAX` while commands are lost and not
    /// yet made up for.
    pub(super) safe_from: CachePadded<AtomicU64>,
    pub(super) stopped: AtomicBool,
    pub(super) recovery: Mutex<Recovery>,
    pub(super) errors: Arc<GlobalErrors>,
    #[cfg(all(test, loom))]
    pub(super) flaw: Flaw,
}

// SAFETY: `entries` and `table` point to memory that came from `memory`, which is
// `Send` and `Sync`, and that is reached through atomic operations only; the rest
// is `Send`.
unsafe impl<H: SmmuHost, M: TableMemory> Send for CommandQueue<H, M> {}
// SAFETY: as above, and every method takes care of concurrency itself.
unsafe impl<H: SmmuHost, M: TableMemory> Sync for CommandQueue<H, M> {}

impl<H: SmmuHost, M: TableMemory> CommandQueue<H, M> {
    /// Takes memory for a queue. The registers are not touched: write
    /// [`base_register`](Self::base_register), then
    /// [`write_pointers`](Self::write_pointers), then enable the queue.
    ///
    /// # Errors
    ///
    /// [`QueueSetupError`]; nothing is kept.
    pub fn new(
        host: H,
        memory: M,
        features: Features,
        errors: Arc<GlobalErrors>,
        config: QueueConfig,
    ) -> Result<Self, QueueSetupError> {
        let lg2 = config.lg2_entries;
        let max = features.cmdq_lg2_max.min(registers::QUEUE_LG2_MAX);
        if lg2 > max {
            return Err(QueueSetupError::Size { lg2, max });
        }
        // A table has at least 64 bytes; a small queue uses its beginning.
        let bytes = (16_usize << lg2).max(64);
        let Some(table) = memory.alloc(bytes) else {
            return Err(QueueSetupError::NoMemory {
                bytes: bytes as u64,
            });
        };
        let align = registers::queue_align_bytes(lg2, 16);
        if table.phys.0 & (align - 1) != 0 || table.phys.0 >> 52 != 0 {
            // SAFETY: just allocated with this size, and not used.
            unsafe { memory.free(table, bytes) };
            return Err(QueueSetupError::Base { base: table.phys });
        }
        let ends: Vec<_> = (0..1_usize << lg2).map(|_| AtomicU64::new(0)).collect();
        ends[0].store(Place::baton(0).0, Ordering::Relaxed);
        Ok(CommandQueue {
            host,
            memory,
            bytes,
            mask: (1 << lg2) - 1,
            config,
            features,
            // `TableMemory::alloc` gives 64-bit words that any thread may use;
            // an atomic word has the same layout (under loom they are such).
            entries: table.ptr.cast(),
            table,
            ends: ends.into_boxed_slice(),
            reserved: CachePadded::new(AtomicU64::new(0)),
            // A sync with nothing before it is over.
            progress: CachePadded::new(Progress {
                published: AtomicU64::new(Place::published(0, true).0),
                carried: AtomicU64::new(0),
            }),
            consumed: CachePadded::new(AtomicU64::new(0)),
            safe_from: CachePadded::new(AtomicU64::new(0)),
            stopped: AtomicBool::new(false),
            recovery: Mutex::new(Recovery::new()),
            errors,
            #[cfg(all(test, loom))]
            flaw: Flaw::None,
        })
    }

    /// The value of `CMDQ_BASE`.
    pub fn base_register(&self) -> u64 {
        registers::queue_base(
            self.table.phys,
            self.capacity().ilog2(),
            self.features.coherent,
        )
    }

    /// Entries of the queue.
    #[inline(always)]
    pub const fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Commands queued since it was made, syncs included, and what others are about
    /// to queue.
    pub fn queued(&self) -> u64 {
        self.reserved_position()
    }

    /// Writes `CMDQ_PROD` and `CMDQ_CONS`, which 6.3.26 allows while the queue
    /// is disabled.
    pub fn write_pointers(&mut self) {
        let position = self.reserved_position();
        let value = self.pointer(position);
        self.host.write32(registers::CMDQ_PROD, value);
        self.host.write32(registers::CMDQ_CONS, value);
    }

    /// Makes a queue that was disabled usable again, whatever state it was in.
    /// Every ticket up to now fails, and so do new ones until the
    /// [heal batch](Self::set_heal) has run.
    pub fn reset(&mut self) {
        let position = self.reserved_position();
        let published = Place::published(position, true);
        self.progress
            .published
            .store(published.0, Ordering::Relaxed);
        self.progress.carried.store(position, Ordering::Relaxed);
        self.end_of(position)
            .store(Place::baton(position).0, Ordering::Relaxed);
        self.consumed.store(position, Ordering::Relaxed);
        self.stopped.store(false, Ordering::Relaxed);
        self.recovery.lock().restart();
        self.safe_from.store(u64::MAX, Ordering::Release);
        self.write_pointers();
    }

    /// Queues `commands` one behind the other, without others' in between. They
    /// may become visible to the SMMU only with the next sync. More commands than
    /// the queue holds go in several batches.
    ///
    /// Returns the position behind the last one.
    ///
    /// # Errors
    ///
    /// [`QueueError`]: some of the commands may have been queued.
    pub fn push(&self, commands: &[RawCommand]) -> Result<u64, QueueError> {
        self.push_within(commands, None)
    }

    #[inline(always)]
    fn push_within(
        &self,
        commands: &[RawCommand],
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        if commands.len() as u64 > self.capacity() {
            return self.push_long(commands, wait);
        }
        self.insert(commands, false, wait)
    }

    /// As [`push`](Self::push), for the most frequent case.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline(always)]
    pub fn push_one(&self, command: RawCommand) -> Result<u64, QueueError> {
        self.insert(&[command], false, None)
    }

    /// As [`push_sync`](Self::push_sync) with one command, for the most frequent
    /// case.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline(always)]
    pub fn push_one_sync(&self, command: RawCommand) -> Result<u64, QueueError> {
        if self.mask == 0 {
            return self.push_sync(&[command]);
        }
        self.insert(&[command, SYNC], true, None)
    }

    /// Queues `commands` and a `CMD_SYNC` behind them, and publishes. Returns the
    /// ticket to wait for.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_sync(&self, commands: &[RawCommand]) -> Result<u64, QueueError> {
        self.push_sync_within(commands, None)
    }

    /// As [`push_sync`](Self::push_sync); waits for room no longer than `wait`
    /// allows, if there is one.
    #[inline(always)]
    pub(super) fn push_sync_within(
        &self,
        commands: &[RawCommand],
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        const BATCH: usize = 16;
        let len = commands.len();
        if len < BATCH && (len as u64) < self.capacity() {
            let mut batch = [SYNC; BATCH];
            batch[..len].copy_from_slice(commands);
            return self.insert(&batch[..=len], true, wait);
        }
        let mut own = BoundedWait::new(self.config.full_timeout);
        let wait = wait.unwrap_or(&mut own);
        self.push_within(commands, Some(wait))?;
        self.insert(&[SYNC], true, Some(wait))
    }

    /// A ticket behind everything queued so far: of a new `CMD_SYNC`, or of the
    /// last one that was published if nothing was queued since.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline]
    pub fn sync_begin(&self) -> Result<u64, QueueError> {
        // In this order: every command that happened before this call has a
        // position below the one reserved, as one word hands them out in order.
        let reserved = self.reserved_position();
        let published = Place(self.progress.published.load(Ordering::Acquire));
        let position = published.position();
        if self.has(Flaw::ShareEarlier) {
            return Ok(position);
        }
        if published.synced() && position >= reserved {
            return Ok(position);
        }
        self.insert(&[SYNC], true, None)
    }

    #[cold]
    fn push_long(
        &self,
        commands: &[RawCommand],
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        let mut own = BoundedWait::new(self.config.full_timeout);
        let wait = wait.unwrap_or(&mut own);
        let mut end = 0;
        for batch in commands.chunks(self.capacity() as usize) {
            end = self.insert(batch, false, Some(wait))?;
        }
        Ok(end)
    }

    /// Steps 1 to 3 of the protocol. `commands` is at most as long as the queue; if
    /// the last is a sync, they are published.
    #[inline(always)]
    fn insert(
        &self,
        commands: &[RawCommand],
        sync: bool,
        wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        if cfg!(debug_assertions) {
            for command in commands {
                if let Err(issue) = check_command(command, &self.features) {
                    panic!("the driver made command {command:x?}, which is wrong: {issue}");
                }
            }
        }
        let count = commands.len() as u64;
        if count == 0 {
            // It would have no slot of its own for its end.
            return Ok(self.reserved_position());
        }
        if self.stopped.load(Ordering::Relaxed) {
            return Err(QueueError::Stopped(self.reason()));
        }
        let start = self.reserve(count, wait)?;
        let end = start + count;
        for (position, command) in (start..).zip(commands) {
            self.write_entry(position, command);
        }
        // The SMMU need not wait for a sync that is far away.
        let urgent = sync || (start ^ end) >= PUBLISH_EVERY;
        self.mark_ready(start, Place::batch_end(end, sync, urgent));
        Ok(end)
    }

    /// Always false outside models.
    #[inline(always)]
    pub(super) fn has(&self, _flaw: Flaw) -> bool {
        #[cfg(all(test, loom))]
        return self.flaw == _flaw;
        #[cfg(not(all(test, loom)))]
        false
    }

    pub(super) fn reserved_position(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// The position that was last written to `PROD`.
    pub(super) fn published_position(&self) -> u64 {
        Place(self.progress.published.load(Ordering::Acquire)).position()
    }

    /// Index and wrap bit.
    #[inline(always)]
    pub(super) const fn pointer_mask(&self) -> u64 {
        2 * self.mask + 1
    }

    /// A position as `PROD` and `CONS` have it: index and wrap bit.
    #[inline(always)]
    pub(super) fn pointer(&self, position: u64) -> u32 {
        (position & self.pointer_mask()) as u32
    }

    #[inline(always)]
    fn slot(&self, position: u64) -> usize {
        (position & self.mask) as usize
    }

    #[inline(always)]
    pub(super) fn end_of(&self, position: u64) -> &AtomicU64 {
        let slot = self.slot(position);
        debug_assert!(slot < self.ends.len());
        // SAFETY: `ends` has `mask + 1` elements, and `slot` is at most `mask`.
        unsafe { self.ends.get_unchecked(slot) }
    }

    #[inline(always)]
    pub(super) fn write_entry(&self, position: u64, command: &RawCommand) {
        let slot = self.slot(position);
        for (word, value) in command.iter().enumerate() {
            // SAFETY: `entries` has 16 bytes for each slot; the
            // memory is ours until `drop` and holds atomic words.
            let cell = unsafe { self.entries.add(2 * slot + word).as_ref() };
            cell.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// For an SMMU that does not snoop.
    #[cold]
    pub(super) fn clean(&self, first: u64, end: u64) {
        for position in first..end {
            let offset = 2 * self.slot(position);
            // SAFETY: as in `write_entry`.
            let word = unsafe { self.table.ptr.add(offset) };
            self.memory.clean(word, 2);
        }
    }
}

impl<H: SmmuHost, M: TableMemory> Drop for CommandQueue<H, M> {
    fn drop(&mut self) {
        // SAFETY: it came from `alloc` with this size. The owner has disabled
        // the queue, as the documentation of `Smmu` demands, so nobody reads it.
        unsafe { self.memory.free(self.table, self.bytes) };
    }
}

impl<H: SmmuHost, M: TableMemory> fmt::Debug for CommandQueue<H, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandQueue")
            .field("capacity", &self.capacity())
            .field("reserved", &self.reserved_position())
            .field("published", &self.published_position())
            .finish_non_exhaustive()
    }
}
