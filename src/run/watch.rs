//! The device's side of an exposure run. It uses every page of what is mapped,
//! again after each flush, so that the SMMU always remembers it; and it probes
//! what was unmapped until the probes fault.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use dmabench_flushq::{
    BackendError, Late, RangeCommands, Synced, Ticket, TlbBackend, TlbRange, commands_for,
};
use dmabench_platform::{Clock, Iova, SlotGuard, TimeNs, Timeout, VirtualClock};
use dmabench_smmu::soft::{Access, SimDevice, SmmuContext};

/// What the device found.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Pages used while they were mapped.
    pub(super) device_accesses: u64,
    /// Pages that could not be used, or not as the tables said, while they were
    /// mapped: a defect.
    pub(super) denied: u64,
    pub(super) probes: u64,
    /// Probes that reached memory.
    pub(super) stale_accesses: u64,
    pub(super) stale_window_max_ns: u64,
    /// Buffers whose first probe reached memory.
    pub(super) stale_buffers: u64,
    pub(super) stale_buffers_max: u64,
    pub(super) stale_bytes_max: u64,
    /// For each stale buffer, how long it was reachable.
    pub(super) windows_ns: Vec<u64>,
    /// Flushes that completed.
    pub(super) flushes: u64,
    pub(super) syncs: u64,
    /// Pages that an invalidation covered while they were mapped.
    pub(super) live_pages_invalidated: u64,
}

/// A buffer that is mapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapped {
    pub(super) device: usize,
    /// The I/O pages.
    pub(super) iova: Iova,
    pub(super) len_bytes: u64,
    /// What the device does with it.
    pub(super) accesses: &'static [Access],
}

/// An unmapped buffer that the device can still reach.
#[derive(Debug)]
struct Buffer {
    device: usize,
    /// The first, a middle and the last page; fewer where they are the same.
    pages: [Iova; 3],
    page_count: usize,
    len_bytes: u64,
    access: Access,
    unmapped_at: TimeNs,
    /// How long a probe reached it so far; `None` before the first.
    window_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// By their places in the run.
    mapped: Vec<Option<Mapped>>,
    /// The one of them whose unmap has begun.
    leaving: Option<usize>,
    buffers: Vec<Buffer>,
    seen: Seen,
}

/// The prober. Shared by the run and the backend, which calls it around
/// flushes.
#[derive(Debug)]
pub(super) struct Watch {
    clock: Arc<VirtualClock>,
    /// Set once the domains exist, which need the backend that has this.
    devices: OnceLock<Vec<SimDevice>>,
    state: Mutex<State>,
    off: AtomicBool,
}

const PAGE: u64 = 4096;

/// After each request so many of the latest stale buffers are probed, and the
/// oldest; all of them around a flush. Linux's queue per CPU holds no more; with
/// its single queue a run would else take the square of its length.
const LATEST: usize = 256;

impl Watch {
    pub(super) fn new(clock: Arc<VirtualClock>) -> Arc<Self> {
        Arc::new(Watch {
            clock,
            devices: OnceLock::new(),
            state: Mutex::default(),
            off: AtomicBool::new(false),
        })
    }

    /// The devices of the workload, by their index. Later calls change nothing.
    pub(super) fn set_devices(&self, devices: Vec<SimDevice>) {
        let _ = self.devices.set(devices);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counters, nothing that could be broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer was mapped; `place` is free. The device uses it.
    pub(super) fn mapped(&self, place: usize, mapped: Mapped) {
        let mut state = self.state();
        self.touch(&mut state.seen, &mapped);
        if state.mapped.len() <= place {
            state.mapped.resize(place + 1, None);
        }
        state.mapped[place] = Some(mapped);
    }

    /// The device uses every page of a buffer that is mapped.
    fn touch(&self, seen: &mut Seen, mapped: &Mapped) {
        let Some(devices) = self.devices.get() else {
            return;
        };
        for &access in mapped.accesses {
            let device = &devices[mapped.device];
            let touched = device.touch(mapped.iova, mapped.len_bytes, access);
            seen.device_accesses += touched.fresh;
            seen.denied += touched.stale + touched.faulted;
        }
    }

    /// A flush made the SMMU forget what the device still uses.
    fn touch_all(&self) {
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        let State { mapped, seen, .. } = &mut *state;
        for mapped in mapped.iter().flatten() {
            self.touch(seen, mapped);
        }
    }

    /// The unmap of the buffer at `place` begins. The device may use it to its end,
    /// but what that invalidates is not in use.
    pub(super) fn leaves(&self, place: usize) {
        self.state().leaving = Some(place);
    }

    /// An invalidation covers these ranges, or everything.
    fn invalidated(&self, context: &SmmuContext, ranges: Option<&[TlbRange]>) {
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        let State {
            mapped,
            leaving,
            seen,
            ..
        } = &mut *state;
        for (place, mapped) in mapped.iter().enumerate() {
            let Some(mapped) = mapped else { continue };
            if *leaving == Some(place) || super::bed::context(mapped.device as u16) != *context {
                continue;
            }
            let (first, end) = (mapped.iova.0, mapped.iova.0 + mapped.len_bytes);
            let bytes = match ranges {
                None => mapped.len_bytes,
                Some(ranges) => (ranges.iter())
                    .map(|range| {
                        let covered_end = range.iova.0.saturating_add(range.len_bytes).min(end);
                        covered_end.saturating_sub(range.iova.0.max(first))
                    })
                    .sum(),
            };
            seen.live_pages_invalidated += bytes / PAGE;
        }
    }

    /// The device uses the buffer at `place` no more: it is about to be unmapped.
    pub(super) fn take(&self, place: usize) -> Option<Mapped> {
        let mut state = self.state();
        state.leaving = None;
        state.mapped.get_mut(place).and_then(Option::take)
    }

    /// A buffer was given back to its owner just now: probes it, with all others.
    pub(super) fn given_back(&self, buffer: Mapped) {
        let mut state = self.state();
        let Mapped {
            device,
            iova,
            len_bytes,
            accesses,
        } = buffer;
        let page = |at: u64| Iova(at & !(PAGE - 1));
        let first = page(iova.0);
        let last = page(iova.0 + len_bytes.max(1) - 1);
        let middle = page(first.0 + (last.0 - first.0) / 2);
        let (pages, page_count) = match (last.0 - first.0) / PAGE {
            0 => ([first; 3], 1),
            1 => ([first, last, last], 2),
            _ => ([first, middle, last], 3),
        };
        state.buffers.push(Buffer {
            device,
            pages,
            page_count,
            len_bytes,
            access: accesses[0],
            unmapped_at: self.clock.now(),
            window_ns: None,
        });
        self.probe_locked(&mut state, LATEST);
    }

    /// Probes every buffer that was reachable when last probed.
    pub(super) fn probe(&self) {
        self.probe_locked(&mut self.state(), usize::MAX);
    }

    /// Of the buffers that were reachable when last probed, probes the oldest and
    /// the `latest`.
    fn probe_locked(&self, state: &mut State, latest: usize) {
        let Some(devices) = self.devices.get() else {
            return;
        };
        if self.off.load(Ordering::Relaxed) {
            return;
        }
        let now = self.clock.now();
        let State { buffers, seen, .. } = state;
        let skipped = 1..buffers.len().saturating_sub(latest);
        let mut number = 0;
        buffers.retain_mut(|buffer| {
            number += 1;
            if skipped.contains(&(number - 1)) {
                return true;
            }
            let device = &devices[buffer.device];
            let mut reached = 0;
            for &page in &buffer.pages[..buffer.page_count] {
                seen.probes += 1;
                reached += u64::from(device.probe(page, buffer.access).is_stale());
            }
            if reached == 0 {
                seen.windows_ns.extend(buffer.window_ns);
                return false;
            }
            let window = now.since(buffer.unmapped_at);
            seen.stale_accesses += reached;
            seen.stale_buffers += u64::from(buffer.window_ns.is_none());
            seen.stale_window_max_ns = seen.stale_window_max_ns.max(window);
            buffer.window_ns = Some(window);
            true
        });
        let bytes = buffers.iter().map(|b| b.len_bytes).sum();
        seen.stale_buffers_max = seen.stale_buffers_max.max(buffers.len() as u64);
        seen.stale_bytes_max = seen.stale_bytes_max.max(bytes);
    }

    /// The run is over: what is still reachable counts as far as it was seen,
    /// and the drain that follows does not count.
    pub(super) fn finish(&self) -> Seen {
        self.off.store(true, Ordering::Relaxed);
        let mut state = self.state();
        let State { buffers, seen, .. } = &mut *state;
        seen.windows_ns
            .extend(buffers.drain(..).filter_map(|b| b.window_ns));
        std::mem::take(seen)
    }

    /// Flushes that completed and pages that were used so far.
    pub(super) fn so_far(&self) -> (u64, u64) {
        let seen = &self.state().seen;
        (seen.flushes, seen.device_accesses)
    }
}

/// A backend that lets the device probe just before and just after each flush.
/// It stands inside of the cost model, which moves the clock before it waits.
#[derive(Debug)]
pub(super) struct Watched<B> {
    inner: B,
    watch: Arc<Watch>,
    /// Of the modelled hardware: what its commands cover.
    commands: RangeCommands,
    /// A flush of everything was begun and has not completed.
    flushing: AtomicBool,
}

impl<B> Watched<B> {
    pub(super) fn new(inner: B, watch: Arc<Watch>, commands: RangeCommands) -> Self {
        Watched {
            inner,
            watch,
            commands,
            flushing: AtomicBool::new(false),
        }
    }
}

impl<B> Watched<B> {
    /// What the device may no longer use.
    fn note(&self, context: &SmmuContext, ranges: &[TlbRange]) {
        let whole = |range| commands_for(range, self.commands).by_context > 0;
        let named = (!ranges.iter().any(whole)).then_some(ranges);
        self.watch.invalidated(context, named);
    }
}

// SAFETY: every promise is kept by `inner`, to which every call is passed on
// unchanged and whose answers are returned. What the device does in between
// only asks the SMMU for translations; it calls neither the domain nor a slot,
// takes no longer than the buffers are many, and the lock it takes is never
// held while a backend is called.
unsafe impl<B: TlbBackend<Context = SmmuContext>> TlbBackend for Watched<B> {
    type Context = SmmuContext;

    fn invalidate(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<(), BackendError> {
        self.note(context, ranges);
        self.inner.invalidate(slot, context, ranges)
    }

    fn invalidate_and_sync(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
        ranges: &[TlbRange],
    ) -> Result<Ticket, BackendError> {
        self.note(context, ranges);
        self.watch.state().seen.syncs += 1;
        self.inner.invalidate_and_sync(slot, context, ranges)
    }

    fn invalidate_all(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        context: &SmmuContext,
    ) -> Result<(), BackendError> {
        self.watch.probe();
        self.watch.invalidated(context, None);
        self.flushing.store(true, Ordering::Relaxed);
        self.inner.invalidate_all(slot, context)
    }

    fn sync_begin(&self, slot: Option<&mut SlotGuard<'_>>) -> Result<Ticket, BackendError> {
        self.watch.state().seen.syncs += 1;
        self.inner.sync_begin(slot)
    }

    fn sync_wait(
        &self,
        slot: Option<&mut SlotGuard<'_>>,
        ticket: Ticket,
        timeout: Timeout,
    ) -> Result<Synced, Late> {
        let flushing = self.flushing.load(Ordering::Relaxed);
        if flushing {
            // The clock shows the end of the flush already: the last moment.
            self.watch.probe();
        }
        let synced = self.inner.sync_wait(slot, ticket, timeout)?;
        if flushing {
            self.flushing.store(false, Ordering::Relaxed);
            self.watch.state().seen.flushes += 1;
            self.watch.probe();
            self.watch.touch_all();
        }
        Ok(synced)
    }
}
