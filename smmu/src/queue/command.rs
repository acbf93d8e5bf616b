//! The command queue: reserving, writing, publishing.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{fmt, ptr::NonNull};

use dmabench_pgtable::{TableMemory, TableRef};
use dmabench_platform::{
    CachePadded, Timeout,
    sync::{
        Backoff, Mutex,
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

const SYNC: RawCommand = Command::SYNC.encode();

/// What a model leaves out on purpose, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    #[cfg(all(test, loom))]
    None,
    /// The end of a batch is stored without release.
    ReadyRelaxed,
    /// Positions are handed out without room.
    NoRoomCheck,
    /// A publisher does not wait for its turn.
    NoTurn,
    /// A sync is shared although commands lie behind it.
    ShareEarlier,
    /// An illegal command is skipped without failing anybody.
    ForgetLoss,
}

/// A command queue. See the [module](super) for the protocol.
pub struct CommandQueue<H: SmmuHost, M: TableMemory> {
    pub(super) host: H,
    memory: M,
    table: TableRef,
    bytes: usize,
    /// Entries less one.
    mask: u64,
    config: QueueConfig,
    pub(super) features: Features,
    /// `2^lg2` commands of two words, shared with the SMMU.
    entries: NonNull<AtomicU64>,
    /// By slot of a batch's first command: the position behind its last. A value
    /// above the position is of this lap, hence of a batch that is ready.
    ends: Box<[AtomicU64]>,
    reserved: CachePadded<AtomicU64>,
    /// What was written to `PROD`.
    published: CachePadded<AtomicU64>,
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
            reserved: CachePadded::new(AtomicU64::new(Place::start(0).0)),
            published: CachePadded::new(AtomicU64::new(0)),
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

    /// Commands queued since it was made, syncs included.
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
        self.published.store(position, Ordering::Relaxed);
        self.consumed.store(position, Ordering::Relaxed);
        let place = Place::start(position);
        self.reserved.store(place.0, Ordering::Relaxed);
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
        self.insert(commands, false, false, wait)
    }

    /// As [`push`](Self::push), for the most frequent case.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline(always)]
    pub fn push_one(&self, command: RawCommand) -> Result<u64, QueueError> {
        self.insert(&[command], false, false, None)
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
        mut wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        const BATCH: usize = 16;
        let len = commands.len();
        if len < BATCH && (len as u64) < self.capacity() {
            let mut batch = [SYNC; BATCH];
            batch[..len].copy_from_slice(commands);
            return self.insert(&batch[..=len], true, true, wait);
        }
        self.push_within(commands, wait.as_deref_mut())?;
        self.insert(&[SYNC], true, true, wait)
    }

    /// A ticket behind everything queued so far: of a new `CMD_SYNC`, or of the
    /// one that is already there.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline]
    pub fn sync_begin(&self) -> Result<u64, QueueError> {
        let place = Place(self.reserved.load(Ordering::Acquire));
        if self.has(Flaw::ShareEarlier) {
            return Ok(place.position() - place.pending());
        }
        if place.synced() {
            // Every command that happened before this call has a position below
            // this one, as positions are handed out by one word in order.
            return Ok(place.position());
        }
        self.insert(&[SYNC], true, true, None)
    }

    #[cold]
    fn push_long(
        &self,
        commands: &[RawCommand],
        mut wait: Option<&mut BoundedWait>,
    ) -> Result<u64, QueueError> {
        let mut end = 0;
        for batch in commands.chunks(self.capacity() as usize) {
            end = self.insert(batch, false, false, wait.as_deref_mut())?;
        }
        Ok(end)
    }

    /// Steps 1 to 3 of the protocol. `commands` is at most as long as the queue.
    #[inline(always)]
    fn insert(
        &self,
        commands: &[RawCommand],
        sync: bool,
        publish: bool,
        mut wait: Option<&mut BoundedWait>,
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
        let mut place = Place(self.reserved.load(Ordering::Acquire));
        let publish = loop {
            let consumed = self.consumed.load(Ordering::Acquire);
            // A stale `place` may lie before `consumed`, and the difference wrap;
            // its exchange would fail, so that asking again is right.
            if (place.position() + count).wrapping_sub(consumed) > self.capacity()
                && !self.has(Flaw::NoRoomCheck)
            {
                self.make_room(count, wait.as_deref_mut())?;
                place = Place(self.reserved.load(Ordering::Acquire));
                continue;
            }
            let (next, publish) = match place.extended(count) {
                Some(next) if !publish => (next, false),
                _ => (place.published(count, sync), true),
            };
            match self.reserved.compare_exchange_weak(
                place.0,
                next.0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break publish,
                Err(now) => place = Place(now),
            }
        };
        let start = place.position();
        let end = start + count;
        for (position, command) in (start..).zip(commands) {
            self.write_entry(position, command);
        }
        let ready = if self.has(Flaw::ReadyRelaxed) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.end_of(start).store(end, ready);
        if publish {
            self.take_turn(start - place.pending(), start, end);
        }
        Ok(end)
    }

    /// Publishes everything up to `end`. The caller reserved what lies between
    /// `turn` (the end of the last publishing batch before) and `end`; its own
    /// batch begins at `start` and is ready.
    #[inline]
    fn take_turn(&self, turn: u64, start: u64, end: u64) {
        let mut ready = self.published.load(Ordering::Acquire);
        if ready < turn && !self.has(Flaw::NoTurn) {
            ready = self.wait_for_turn(turn);
        }
        if ready >= end {
            return;
        }
        let first = ready;
        while ready < start {
            match self.ready_batch(ready) {
                Some(next) => ready = next,
                None => ready = self.wait_until_ready(ready),
            }
        }
        if ready < end {
            ready = end;
        }
        // Whatever else is ready: its publisher finds its turn done.
        while let Some(next) = self.ready_batch(ready) {
            ready = next;
        }
        if !self.features.coherent {
            self.clean(first, ready);
        }
        self.host.publish();
        self.host.write32(registers::CMDQ_PROD, self.pointer(ready));
        self.published.store(ready, Ordering::Release);
    }

    #[cold]
    fn wait_for_turn(&self, turn: u64) -> u64 {
        let mut backoff = Backoff::new();
        loop {
            let published = self.published.load(Ordering::Acquire);
            if published >= turn {
                return published;
            }
            backoff.wait();
        }
    }

    #[cold]
    fn wait_until_ready(&self, position: u64) -> u64 {
        let mut backoff = Backoff::new();
        loop {
            if let Some(end) = self.ready_batch(position) {
                return end;
            }
            backoff.wait();
        }
    }

    /// The end of the batch that begins at `position`, once it is ready.
    #[inline(always)]
    fn ready_batch(&self, position: u64) -> Option<u64> {
        let end = self.end_of(position).load(Ordering::Acquire);
        (end > position).then_some(end)
    }

    /// Publishes what waits for a publisher.
    fn flush_pending(&self) {
        let mut place = Place(self.reserved.load(Ordering::Acquire));
        while place.pending() != 0 {
            let end = place.position();
            match self.reserved.compare_exchange_weak(
                place.0,
                place.published(0, false).0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return self.take_turn(end - place.pending(), end, end),
                Err(now) => place = Place(now),
            }
        }
    }

    /// Waits until `count` positions are free (others may take them first), as
    /// long as `wait` allows, or else the configuration.
    #[cold]
    fn make_room(&self, count: u64, wait: Option<&mut BoundedWait>) -> Result<(), QueueError> {
        let mut own = BoundedWait::new(self.config.full_timeout);
        let wait = wait.unwrap_or(&mut own);
        loop {
            self.flush_pending();
            self.update_consumed().map_err(QueueError::Stopped)?;
            let used = self
                .reserved_position()
                .saturating_sub(self.consumed.load(Ordering::Acquire));
            if used + count <= self.capacity() {
                return Ok(());
            }
            self.handle_errors();
            if !wait.again(&self.host) {
                return Err(QueueError::Full {
                    after: wait.timeout(),
                });
            }
        }
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
        Place(self.reserved.load(Ordering::Acquire)).position()
    }

    /// The position that was last written to `PROD`.
    pub(super) fn published_position(&self) -> u64 {
        self.published.load(Ordering::Acquire)
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
    fn end_of(&self, position: u64) -> &AtomicU64 {
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
