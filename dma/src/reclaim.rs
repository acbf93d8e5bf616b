//! Tables that were emptied piece by piece: found and freed off the hot path.

use dmabench_flushq::{TlbBackend, TlbRange};
use dmabench_pgtable::{Format, TableMemory, TableSpan};
use dmabench_platform::{Iova, SlotSource, TimeNs};

use crate::{Domain, FlushError};

/// Ranges given to the backend in one call.
const AT_ONCE: usize = 32;

impl<B: TlbBackend, S: SlotSource, F: Format, M: TableMemory> Domain<B, S, F, M> {
    /// Takes empty tables out of the tree, if it is time. The caller is outside
    /// every section.
    pub(crate) fn reclaim_if_due(&self, now: TimeNs) -> Result<(), FlushError> {
        let Some(timer) = &self.reclaim else {
            return Ok(());
        };
        if !timer.lock().due(now, &self.tables.stats()) {
            return Ok(());
        }
        let spare = self.config.tables.spare_tables as u64;
        // SAFETY: `invalidate_tables` returns `Ok` only after an invalidation of
        // every span, walk caches included, that it began itself has completed:
        // with this domain's backend and context, which are those of all walkers
        // of these tables.
        let reclaimed = unsafe {
            self.tables
                .reclaim(spare, |spans| self.invalidate_tables(spans))
        };
        // Counted before the lock is taken: it is nobody's to wait for.
        let stats = self.tables.stats();
        let mut timer = timer.lock();
        match reclaimed {
            Ok(_) => timer.ran(now, &stats),
            Err(_) => timer.failed(now),
        }
        reclaimed.map(|_| ())
    }

    /// When tables may be worth looking for; `None` while there is nothing to
    /// gain.
    pub(crate) fn reclaim_deadline(&self) -> Option<TimeNs> {
        let timer = self.reclaim.as_ref()?;
        let stats = self.tables.stats();
        timer.lock().next_deadline(&stats)
    }

    /// Makes every walker forget the tables of `spans`, and waits.
    fn invalidate_tables(&self, spans: &[TableSpan]) -> Result<(), FlushError> {
        let mut ranges = [TlbRange {
            iova: Iova(0),
            len_bytes: F::GRANULE.bytes(),
            granule: F::GRANULE,
            // No level and not leaves only, so that table entries of every level
            // go.
            level: None,
            leaf_only: false,
        }; AT_ONCE];
        for spans in spans.chunks(AT_ONCE) {
            for (range, span) in ranges.iter_mut().zip(spans) {
                range.iova = span.iova;
                range.len_bytes = span.len_bytes;
            }
            self.backend
                .invalidate(None, &self.context, &ranges[..spans.len()])?;
        }
        self.sync()
    }
}
