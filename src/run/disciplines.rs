//! Modes in which an unmap call is not all there is to it: batched, pipelined and
//! parked. Each is a bed of domains and what its driver would do.

use std::cell::{Cell, RefCell};

use dmabench_dma::{Batch, DmaSegment, Domain, Mapping, Parkable, Pending, Segment, Window};
use dmabench_flushq::{BackendCounts, CountingBackend, TlbBackend};
use dmabench_pgtable::{HeapTables, TableMemory};
use dmabench_platform::{Iova, TimeNs};

use super::{
    GRANULE, RunError,
    bed::Bed,
    ground::{Counted, Ground},
};
use crate::workload::{Request, Step, Workload};

/// What a discipline leaves as the bed has it.
macro_rules! as_the_bed {
    () => {
        type Live = Mapping;

        #[inline]
        fn unmap(&self, device: u16, mapping: Mapping) -> Result<(), RunError> {
            self.bed.unmap(device, mapping)
        }

        fn range(mapping: &Mapping) -> Option<(Iova, u64)> {
            mapping.mapped_range()
        }

        fn next_deadline(&self) -> Option<TimeNs> {
            self.bed.next_deadline()
        }

        fn poll(&self, now: TimeNs) -> Result<(), RunError> {
            self.bed.poll(now)
        }

        fn drain(&self) -> Result<(), RunError> {
            self.bed.drain()
        }

        fn held(&self) -> (u64, u64) {
            self.bed.held()
        }
    };
    (map) => {
        as_the_bed!();

        #[inline]
        fn map(
            &self,
            request: &Request,
            segments: &'w [Segment],
            out: &mut [DmaSegment],
        ) -> Result<Mapping, RunError> {
            self.bed.map(request, segments, out)
        }
    };
}

macro_rules! counted {
    ($($discipline:ident),*) => {$(
        impl Counted for $discipline<CountingBackend, HeapTables> {
            fn counts(&self) -> BackendCounts {
                self.bed.counts()
            }
        }
    )*};
}

counted!(Batched, Pipelined, ParkedBuffers);

/// `strict-batched`. Requests that follow each other without an unmap between are
/// mapped in one window of addresses; unmaps that follow each other without a map
/// between are one completion, and one batch.
pub(super) struct Batched<B: TlbBackend, M: TableMemory> {
    bed: Bed<B, M>,
    /// By request: the device and the bytes of the window that is to be opened
    /// before it; no bytes, no window.
    windows: Vec<(u16, u64)>,
    open: RefCell<Open>,
}

/// Requests in one batch at most: twice a command queue.
const BATCH: usize = 64;

struct Open {
    /// One for each device.
    batches: Vec<Batch>,
    /// Whose batch has something in it.
    device: u16,
    /// The requests in it.
    numbers: Vec<u32>,
    window: Option<(u16, Window)>,
}

impl<B: TlbBackend, M: TableMemory> Batched<B, M> {
    pub(super) fn new(bed: Bed<B, M>, workload: &Workload) -> Self {
        let most = bed.domains.iter().map(Domain::window_max_bytes).min();
        let open = Open {
            batches: (bed.domains.iter())
                .map(|domain| domain.batch(BATCH).expect("memory for a few entries"))
                .collect(),
            device: 0,
            numbers: Vec::with_capacity(BATCH),
            window: None,
        };
        Batched {
            bed,
            windows: windows(workload, most.unwrap_or(0)),
            open: RefCell::new(open),
        }
    }

    fn flush(&self, open: &mut Open, back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        if open.numbers.is_empty() {
            return Ok(());
        }
        let device = usize::from(open.device);
        self.bed.domains[device]
            .unmap_batch(&mut open.batches[device])
            .map_err(RunError::refused)?;
        open.numbers.drain(..).for_each(back);
        Ok(())
    }

    fn close(&self, open: &mut Open) -> Result<(), RunError> {
        if let Some((device, window)) = open.window.take()
            && self.bed.domains[usize::from(device)]
                .close_window(window)
                .is_err()
        {
            return Err(RunError::Defect(
                "a window is refused by its domain".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What each row of two or more map calls for one device needs, at its first
/// request; a row of more than `most` bytes gets several windows.
fn windows(workload: &Workload, most: u64) -> Vec<(u16, u64)> {
    let requests = workload.requests();
    let mut windows = vec![(0, 0); requests.len()];
    // The row's first request, its requests, its bytes.
    let mut row = (0_usize, 0_u32, 0_u64);
    let mut end = |row: &mut (usize, u32, u64)| {
        if row.1 > 1 {
            windows[row.0] = (requests[row.0].device, row.2);
        }
        row.1 = 0;
        row.2 = 0;
    };
    for step in workload.steps() {
        let Step::Map(number) = *step else {
            end(&mut row);
            continue;
        };
        let request = &requests[number as usize];
        let pages: u64 = (workload.segments(request).iter())
            .map(|s| ((s.phys.0 & GRANULE.mask()) + s.len_bytes).div_ceil(GRANULE.bytes()))
            .sum();
        let bytes = pages.next_power_of_two() << GRANULE.lg2();
        let same_row = row.1 > 0 && requests[row.0].device == request.device;
        if !same_row || row.2 + bytes > most {
            end(&mut row);
            row.0 = number as usize;
        }
        if bytes <= most {
            row.1 += 1;
            row.2 += bytes;
        }
    }
    end(&mut row);
    windows
}

impl<'w, B: TlbBackend, M: TableMemory> Ground<'w> for Batched<B, M> {
    as_the_bed!();

    const BATCHES: bool = true;

    #[inline]
    fn before_map(&self, number: u32, back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        let open = &mut *self.open.borrow_mut();
        self.flush(open, back)?;
        let (device, bytes) = self.windows[number as usize];
        if bytes != 0 {
            self.close(open)?;
            // A space without such a row still has single places.
            let domain = &self.bed.domains[usize::from(device)];
            if let Ok(window) = domain.open_window(&self.bed.device, bytes) {
                open.window = Some((device, window));
            }
        }
        Ok(())
    }

    #[inline]
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<Mapping, RunError> {
        let open = &mut *self.open.borrow_mut();
        match &mut open.window {
            Some((device, window)) if *device == request.device => self.bed.domains
                [usize::from(*device)]
            .map_sg_in(window, &self.bed.device, segments, out, request.direction)
            .map_err(RunError::refused),
            _ => self.bed.map(request, segments, out),
        }
    }

    #[inline]
    fn done(
        &self,
        number: u32,
        device: u16,
        mapping: Mapping,
        more: bool,
        back: &mut impl FnMut(u32),
    ) -> Result<(), RunError> {
        let open = &mut *self.open.borrow_mut();
        if open.device != device || open.numbers.len() == BATCH {
            self.flush(open, back)?;
            open.device = device;
        }
        if !more && open.numbers.is_empty() {
            // One completion is no batch.
            self.bed.unmap(device, mapping)?;
            back(number);
            return self.close(open);
        }
        if open.batches[usize::from(device)].push(mapping).is_err() {
            return Err(RunError::Defect("a batch with room is full".to_owned()));
        }
        open.numbers.push(number);
        if !more {
            self.flush(open, back)?;
            self.close(open)?;
        }
        Ok(())
    }

    fn settle(&self, back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        let open = &mut *self.open.borrow_mut();
        self.flush(open, back)?;
        self.close(open)
    }
}

/// `strict-pipelined`. The sync of a request runs beside the transfer of the next;
/// when that is done, the first is given back and the sync of the next begins. If
/// there is no next one, the driver waits: whoever sends one request at a time
/// sends none before it has the last one back.
pub(super) struct Pipelined<B: TlbBackend, M: TableMemory> {
    bed: Bed<B, M>,
    /// Requests that are mapped.
    live: Cell<u32>,
    before: RefCell<Option<(u32, u16, Pending)>>,
}

impl<B: TlbBackend, M: TableMemory> Pipelined<B, M> {
    pub(super) fn new(bed: Bed<B, M>) -> Self {
        Pipelined {
            bed,
            live: Cell::new(0),
            before: RefCell::new(None),
        }
    }
}

impl<'w, B: TlbBackend, M: TableMemory> Ground<'w> for Pipelined<B, M> {
    as_the_bed!();

    #[inline]
    fn map(
        &self,
        request: &Request,
        segments: &'w [Segment],
        out: &mut [DmaSegment],
    ) -> Result<Mapping, RunError> {
        self.live.set(self.live.get() + 1);
        self.bed.map(request, segments, out)
    }

    #[inline]
    fn done(
        &self,
        number: u32,
        device: u16,
        mapping: Mapping,
        _more: bool,
        back: &mut impl FnMut(u32),
    ) -> Result<(), RunError> {
        self.settle(back)?;
        let pending = self.bed.domains[usize::from(device)].unmap_begin(mapping);
        let pending = pending.map_err(RunError::refused)?;
        *self.before.borrow_mut() = Some((number, device, pending));
        let live = self.live.get().saturating_sub(1);
        self.live.set(live);
        if live == 0 {
            return self.settle(back);
        }
        Ok(())
    }

    #[inline]
    fn settle(&self, back: &mut impl FnMut(u32)) -> Result<(), RunError> {
        if let Some((number, device, pending)) = self.before.borrow_mut().take() {
            self.bed.domains[usize::from(device)]
                .complete(pending)
                .map_err(RunError::refused)?;
            back(number);
        }
        Ok(())
    }
}

/// `lazy-parked`. What is parked is the request's number.
pub(super) struct ParkedBuffers<B: TlbBackend, M: TableMemory> {
    bed: Bed<B, M>,
}

thread_local! {
    /// Requests that came back, of the one bed this thread works on.
    static CAME_BACK: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

struct Number(u32);

impl Parkable for Number {
    fn into_pointer(self) -> std::ptr::NonNull<()> {
        let address = std::num::NonZeroUsize::MIN.saturating_add(self.0 as usize);
        std::ptr::NonNull::without_provenance(address)
    }

    // SAFETY (of callers): as the trait says; there is nothing behind the pointer.
    unsafe fn from_pointer(pointer: std::ptr::NonNull<()>) -> Self {
        Number((pointer.addr().get() - 1) as u32)
    }

    fn give_back(self) {
        CAME_BACK.with_borrow_mut(|numbers| numbers.push(self.0));
    }
}

impl<B: TlbBackend, M: TableMemory> ParkedBuffers<B, M> {
    pub(super) fn new(bed: Bed<B, M>) -> Self {
        // Of an earlier bed that was dropped with buffers in it.
        CAME_BACK.with_borrow_mut(Vec::clear);
        ParkedBuffers { bed }
    }
}

impl<'w, B: TlbBackend, M: TableMemory> Ground<'w> for ParkedBuffers<B, M> {
    as_the_bed!(map);

    #[inline]
    fn done(
        &self,
        number: u32,
        device: u16,
        mapping: Mapping,
        _more: bool,
        back: &mut impl FnMut(u32),
    ) -> Result<(), RunError> {
        self.bed.domains[usize::from(device)]
            .unmap_parked(mapping, Number(number))
            .map_err(RunError::refused)?;
        self.came_back(back);
        Ok(())
    }

    #[inline]
    fn came_back(&self, back: &mut impl FnMut(u32)) {
        CAME_BACK.with_borrow_mut(|numbers| numbers.drain(..).for_each(back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generate::{Cqe, DdSeq, Generator};

    #[test]
    fn rows_of_maps_get_windows_and_single_ones_none() {
        let cqe = Cqe::DEFAULT.generate(1);
        let of_cqe = windows(&cqe, 8 << 20);
        // 32 of 512 KiB at first, in two windows; then 16 by 16.
        let opened: Vec<(usize, u64)> = (of_cqe.iter().copied().enumerate())
            .filter(|(_, (_, bytes))| *bytes != 0)
            .map(|(number, (_, bytes))| (number, bytes))
            .collect();
        assert_eq!(opened[..3], [(0, 8 << 20), (16, 8 << 20), (32, 8 << 20)]);
        assert_eq!(opened.len(), 1024 / 16);
        let dd = windows(&DdSeq::DEFAULT.generate(1), 8 << 20);
        assert_eq!(dd[0], (0, 2 << 17), "two to begin with");
        assert!(
            dd[2..].iter().all(|window| window.1 == 0),
            "then one by one"
        );
        assert!(windows(&cqe, 1 << 12).iter().all(|window| window.1 == 0));
    }
}
