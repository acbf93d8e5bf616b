//! A table beside its model, a map of pages, driven by bytes: the property test
//! makes them up, the fuzzer evolves them.

use std::{cell::Cell, sync::Arc};

use dmabench_pgtable::{DirtyMarks, Format, MapError, Prot, Quirks, TableConfig, UnmapError};
use dmabench_platform::{Iova, PhysAddr, SlotGuard};

use super::{
    Fixture,
    arena::Arena,
    raw::{self, RawLeaf},
};

/// Bytes as a source of choices; zeroes when they run out.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u64 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                u64::from(*first)
            }
            None => 0,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.byte() << 8 | self.byte()) % end
    }
}

/// What the model knows of a page: its address with the protection and a bit that
/// says "mapped" in the low twelve; 0 if it is not mapped.
const MAPPED: u64 = 1;

fn content(pa: u64, prot: Prot) -> u64 {
    pa | u64::from(prot.bits()) << 1 | MAPPED
}

/// What is mapped, by number of the page in the window. A plain vector, and loops
/// that do not branch on what is in it: under a fuzzer each comparison and each
/// load costs a call or two, and a model of `Option`s in a tree took more time
/// than what it watches.
#[derive(Default)]
struct Model(Vec<u64>);

impl Model {
    fn get(&self, page: u64) -> u64 {
        self.0.get(page as usize).copied().unwrap_or(0)
    }

    /// Pages `first..first + count`, those that were never mapped left out.
    fn range(&self, first: u64, count: u64) -> &[u64] {
        let end = self.0.len().min((first + count) as usize);
        self.0.get(first as usize..end).unwrap_or(&[])
    }

    /// Maps a run of pages; `step` is the distance of their addresses.
    fn insert(&mut self, first: u64, count: u64, start: u64, step: u64) {
        let (first, end) = (first as usize, (first + count) as usize);
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        for (i, word) in self.0[first..end].iter_mut().enumerate() {
            *word = start + i as u64 * step;
        }
    }

    /// Whether the pages are what `insert` would make them.
    fn is_run(&self, first: u64, count: u64, start: u64, step: u64) -> bool {
        let pages = self.range(first, count);
        let odd = (pages.iter().enumerate())
            .fold(0, |odd, (i, word)| odd | (word ^ (start + i as u64 * step)));
        pages.len() as u64 == count && odd == 0
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        self.range(first, count)
            .iter()
            .fold(0, |any, word| any | word)
            == 0
    }

    fn is_whole(&self, first: u64, count: u64) -> bool {
        let pages = self.range(first, count);
        pages.len() as u64 == count && pages.iter().fold(MAPPED, |all, word| all & word) == MAPPED
    }

    fn remove(&mut self, first: u64, count: u64) {
        self.0[first as usize..(first + count) as usize].fill(0);
    }

    /// The first page from `start` on that is mapped.
    fn next(&self, start: u64) -> Option<u64> {
        const STRIDE: usize = 64;
        let rest = self.0.get(start as usize..)?;
        for (i, pages) in rest.chunks(STRIDE).enumerate() {
            if pages.iter().fold(0, |any, word| any | word) != 0 {
                let at = pages.iter().position(|word| *word != 0)?;
                return Some(start + (i * STRIDE + at) as u64);
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.is_free(0, self.0.len() as u64)
    }
}

pub struct Machine<F: Format> {
    f: Fixture<F, Arc<Arena>>,
    arena: Arc<Arena>,
    model: Model,
    /// The window, so placed that it crosses tables of two levels.
    base: u64,
    pages: u64,
    page: u64,
    /// Steps from one [`sweep`](Self::sweep) to the next.
    sweep_every: u64,
    steps: u64,
    /// Whether at the end every page of the window is asked for, and the iterator.
    every_page: bool,
    /// Where in a range the next [`check`](Self::check) looks.
    probe: Cell<u64>,
}

/// Memory for more tables than the window can need. Not for many more: a
/// sanitizer marks each byte of it.
pub fn arena<F: Format>() -> Arc<Arena> {
    Arc::new(Arena::new(0x1000_0000, (64 * 8) << F::INDEX_BITS))
}

impl<F: Format> Machine<F> {
    /// `head` says how often everything is looked at.
    pub fn new(config: TableConfig, arena: Arc<Arena>, head: u64) -> Self {
        let f = Fixture::<F, _>::with_memory(config, arena.clone()).unwrap();
        let page = 1_u64 << F::PAGE_LG2;
        let block = page << F::INDEX_BITS;
        let (first, last) = f.table.input_range();
        // The middle of the space: the border of two root entries.
        let middle = first.0 + (last.0 - first.0) / 2 + 1;
        let pages = 3 << F::INDEX_BITS;
        Machine {
            f,
            arena,
            model: Model::default(),
            base: middle - block - 5 * page,
            pages,
            page,
            sweep_every: 1 << (head % 6),
            steps: 0,
            every_page: head >= 0xf0,
            probe: Cell::new(0),
        }
    }

    fn range(&self, choices: &mut Choices<'_>) -> (u64, u64) {
        let start = match choices.byte() % 4 {
            // Where blocks and runs begin.
            0 => 5 + ((choices.byte() % 3) << F::INDEX_BITS),
            1 => 5 + (choices.below(self.pages) & !31),
            _ => choices.below(self.pages),
        };
        let count = match choices.byte() % 6 {
            0 => 1 << F::INDEX_BITS,
            1 => 128 >> (choices.byte() % 4),
            2 => choices.below(self.pages) + 1,
            _ => choices.byte() % 40 + 1,
        };
        (start, count)
    }

    fn prot(choices: &mut Choices<'_>) -> Prot {
        Prot::truncated(choices.byte() as u8 & 0x3f) | Prot::READ
    }

    /// What the table should say a mapping grants.
    fn as_granted(&self, prot: Prot) -> Prot {
        let quirks = self.f.table.config().quirks;
        F::prot(F::attrs(prot, quirks).unwrap() | 3)
    }

    pub fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 16 {
            0..=3 => self.map(choices),
            4 | 5 => self.map_sg(choices),
            6..=11 => self.unmap(choices),
            12 => self.reclaim(choices),
            13 => self.split(choices),
            14 => self.dirty(choices),
            _ => self.fail_memory(choices),
        }
        self.check_words();
        self.steps += 1;
        if self.steps.is_multiple_of(self.sweep_every) {
            self.sweep();
        }
    }

    fn first_taken(&self, start: u64, count: u64) -> Option<u64> {
        self.model.next(start).filter(|page| *page < start + count)
    }

    fn iova(&self, page: u64) -> u64 {
        self.base + page * self.page
    }

    fn map(&mut self, choices: &mut Choices<'_>) {
        let (start, count) = self.range(choices);
        let prot = Self::prot(choices);
        // Half the time aligned with the IOVA, so that blocks and runs fit.
        let how = choices.byte();
        let skew = if how & 1 == 0 { 0 } else { choices.byte() };
        let (iova, len) = (self.iova(start), count * self.page);
        let pa = (iova & ((1 << 30) - 1)) + skew * self.page;
        let result = if how & 2 == 0 {
            self.f.map(iova, pa, len, prot)
        } else {
            self.f.map_at_once(iova, pa, len, prot)
        };
        self.after_map(result, start, &[(pa, count)], prot);
    }

    fn map_sg(&mut self, choices: &mut Choices<'_>) {
        let start = choices.below(self.pages);
        let prot = Self::prot(choices);
        let mut pieces = Vec::new();
        let mut next = 0;
        for _ in 0..choices.byte() % 12 + 1 {
            let count = match choices.byte() % 8 {
                0 => 1 << F::INDEX_BITS,
                1 => 16,
                n => n,
            };
            // Sometimes a piece goes on where the last one ended.
            let pa = match choices.byte() % 3 {
                0 => next,
                _ => choices.below(1 << 14) * self.page,
            };
            next = pa + count * self.page;
            pieces.push((pa, count));
        }
        let bytes: Vec<_> = pieces.iter().map(|(pa, n)| (*pa, n * self.page)).collect();
        let result = self.f.map_sg(self.iova(start), &bytes, prot);
        if let Ok(len) = result {
            assert_eq!(len, bytes.iter().map(|piece| piece.1).sum::<u64>());
        }
        self.after_map(result.map(|_| ()), start, &pieces, prot);
    }

    /// A5: all or nothing.
    fn after_map(
        &mut self,
        result: Result<(), MapError>,
        start: u64,
        pieces: &[(u64, u64)],
        prot: Prot,
    ) {
        let count = pieces.iter().map(|(_, count)| count).sum();
        match (result, self.first_taken(start, count)) {
            (Ok(()), None) => {
                let prot = self.as_granted(prot);
                let mut at = start;
                for (pa, count) in pieces {
                    let start = content(*pa, prot);
                    self.model.insert(at, *count, start, self.page);
                    at += count;
                }
                self.check(start, count);
            }
            (Err(MapError::Exists { iova }), Some(taken)) => {
                // A block in the way may be named where the range meets it.
                assert!(iova.0 <= self.iova(taken));
                self.check(start, count);
            }
            (Err(MapError::OutOfTables), _) => self.check(start, count),
            other => panic!("map of {count} pages at {start}: {other:?}"),
        }
    }

    fn unmap(&mut self, choices: &mut Choices<'_>) {
        let (mut start, mut count) = self.range(choices);
        // Often exactly what one leaf or several hold.
        let how = choices.byte();
        if !how.is_multiple_of(4)
            && let Some(page) = self.model.next(start)
        {
            start = page;
            count = 1;
            let leaf = self.f.translation(self.iova(start)).unwrap();
            start -= (self.iova(start) & (leaf.page_bytes - 1)) / self.page;
            for _ in 0..choices.byte() % 64 {
                match self.f.translation(self.iova(start + count - 1)) {
                    Some(leaf) => {
                        let at = self.iova(start + count - 1) & !(leaf.page_bytes - 1);
                        count = (at + leaf.page_bytes - self.iova(start)) / self.page + 1;
                    }
                    None => break,
                }
            }
            count = (count - 1).max(1);
        }
        let whole = self.model.is_whole(start, count);
        let cut = [start, start + count - 1].into_iter().any(|page| {
            self.f.translation(self.iova(page)).is_some_and(|leaf| {
                let first = self.iova(page) & !(leaf.page_bytes - 1);
                first < self.iova(start) || first + leaf.page_bytes > self.iova(start + count)
            })
        });
        let before = self.f.table.stats();
        let (iova, len) = (self.iova(start), count * self.page);
        let result = if how & 4 == 0 {
            self.f.unmap(iova, len)
        } else {
            self.f.unmap_at_once(iova, len)
        };
        match result {
            Ok(log) => {
                assert!(whole && !cut);
                // A6: what the sink heard is the range, each byte once.
                let mut leaves = log.leaves;
                leaves.sort();
                let mut at = self.iova(start);
                for (iova, len, _) in leaves {
                    assert_eq!(iova, at);
                    at += len;
                }
                assert_eq!(at, self.iova(start + count));
                self.model.remove(start, count);
                let after = self.f.table.stats();
                assert_eq!(before.live - after.live, log.tables.len() as u64);
            }
            Err(UnmapError::NotMapped { iova }) => {
                assert!(!whole, "{iova} is mapped");
                let page = (iova.0 - self.base) / self.page;
                assert_eq!(self.model.get(page), 0);
            }
            Err(UnmapError::PartOfLeaf { .. }) => assert!(cut),
            Err(other) => panic!("unmap of {count} pages at {start}: {other:?}"),
        }
        self.check(start, count);
    }

    fn reclaim(&mut self, choices: &mut Choices<'_>) {
        let fails = choices.byte().is_multiple_of(4);
        let before = self.f.table.stats();
        // SAFETY: no walker reads these tables.
        let result = unsafe {
            self.f.table.reclaim(choices.byte() % 4, |spans| {
                assert!(!spans.is_empty());
                if fails { Err(()) } else { Ok(()) }
            })
        };
        let after = self.f.table.stats();
        match result {
            Ok(done) => {
                assert_eq!(before.live - after.live, done.unlinked);
                assert_eq!(after.limbo, 0);
                if self.model.is_empty() {
                    assert_eq!(after.live, 0);
                }
            }
            // A11: nothing is lost.
            Err(()) => assert_eq!(before.live, after.live),
        }
        assert_eq!((after.detached, after.lost), (0, 0));
        self.check(0, self.pages);
    }

    fn split(&mut self, choices: &mut Choices<'_>) {
        let page = choices.below(self.pages);
        let slot = self.f.slots.enter_fallback();
        let table = &self.f.table;
        let Ok(broken) = table.break_leaf(&slot, Iova(self.iova(page))) else {
            drop(slot);
            return self.check(page, 1);
        };
        let (at, len) = (broken.iova(), broken.len_bytes());
        assert_eq!(table.translate(&slot, at), None);
        // Nobody maps into a leaf that is being split.
        let into = table.map(&slot, at, PhysAddr(0), self.page, Prot::READ);
        assert!(matches!(into, Err(MapError::Exists { .. })), "{into:?}");
        if choices.byte().is_multiple_of(3) {
            table.unbreak(&slot, broken).unwrap();
        } else {
            // SAFETY: there is no TLB.
            let invalid = unsafe { broken.synced() };
            table.make(&slot, invalid).unwrap();
            let leaf = table.translate(&slot, at).unwrap();
            assert!(leaf.page_bytes < len);
        }
        drop(slot);
        let first = (at.0.max(self.base) - self.base) / self.page;
        self.check(first, len / self.page);
    }

    fn dirty(&mut self, choices: &mut Choices<'_>) {
        let slot = self.f.slots.enter_fallback();
        let marks = if choices.byte() & 1 == 0 {
            DirtyMarks::Keep
        } else {
            DirtyMarks::Clear
        };
        let (first, last) = self.f.table.input_range();
        let tracked = self.f.table.config().quirks.contains(Quirks::ARM_HD);
        let all = last.0 - first.0 + 1;
        let mut told = 0;
        let read = self
            .f
            .table
            .read_dirty(&slot, first, all, marks, |iova, len| {
                assert_ne!(self.model.get((iova.0 - self.base) / self.page), 0);
                told += len;
            });
        assert_eq!(read.is_ok(), tracked);
        if marks == DirtyMarks::Clear && tracked {
            let again = self.f.table.read_dirty(&slot, first, all, marks, |_, _| ());
            assert_eq!(again, Ok(0));
        }
        drop(slot);
        self.check(0, self.pages);
    }

    /// The next allocations fail for a while.
    fn fail_memory(&mut self, choices: &mut Choices<'_>) {
        let budget = choices.byte() % 4;
        self.arena.set_budget(Some(budget as i64));
        for _ in 0..3 {
            self.map(choices);
        }
        self.arena.set_budget(None);
    }

    /// The table's answer for a page.
    fn found(&self, slot: &SlotGuard<'_>, page: u64) -> u64 {
        let found = self.f.table.translate(slot, Iova(self.iova(page) + 7));
        found.map_or(0, |t| content(t.paddr.0 - 7, t.prot))
    }

    /// The ends of the range, its neighbours, and a few pages inside, others each
    /// time. [`sweep`](Self::sweep) looks at all.
    fn check(&self, start: u64, count: u64) {
        const INSIDE: u64 = 8;
        let slot = self.f.slots.enter_fallback();
        let look = |page| assert_eq!(self.found(&slot, page), self.model.get(page), "page {page}");
        if count <= INSIDE {
            (start.saturating_sub(2)..start + count + 2).for_each(look);
            return;
        }
        (start.saturating_sub(2)..start + 2).for_each(look);
        (start + count - 2..start + count + 2).for_each(look);
        let probe = self.probe.replace(self.probe.get() + 1);
        for part in 0..INSIDE {
            look(start + (part * count + probe % count) / INSIDE);
        }
    }

    /// Everything: the leaves in the table's memory are the model's pages and no
    /// others, and translations at both ends of each leaf and of each gap agree.
    /// Gives the leaves.
    fn sweep(&self) -> Vec<RawLeaf> {
        let table = &self.f.table;
        // SAFETY: this thread alone has the table, and no walker is there.
        let leaves =
            unsafe { raw::leaves::<F>(&self.arena, table.registers().ttb, table.geometry()) };
        let slot = self.f.slots.enter_fallback();
        let look = |page| assert_eq!(self.found(&slot, page), self.model.get(page), "page {page}");
        let mut at = 0;
        for leaf in &leaves {
            let iova = table.input_range().0.0 + leaf.off;
            assert!(iova >= self.base, "{leaf:?}");
            let page = (iova - self.base) / self.page;
            let count = leaf.len_bytes / self.page;
            assert!(self.model.is_free(at, page - at), "page {at} and on");
            let start = content(F::decode_oa(leaf.word), F::prot(leaf.word));
            let same = self.model.is_run(page, count, start, self.page);
            assert!(same, "page {page} and on: {leaf:?}");
            if page > at {
                look(at);
                look(page - 1);
            }
            look(page);
            if count > 1 {
                look(page + count - 1);
            }
            at = page + count;
        }
        let rest = (self.model.0.len() as u64).saturating_sub(at);
        assert!(self.model.is_free(at, rest), "page {at} and on");
        look(at);
        leaves
    }

    /// The iterator tells the same leaves.
    fn check_entries(&self, leaves: &[RawLeaf]) {
        let slot = self.f.slots.enter_fallback();
        let (first, last) = self.f.table.input_range();
        let entries = self.f.table.entries(&slot, first, last);
        let told = entries.map(|e| (e.iova.0 - first.0, e.len_bytes, e.paddr.0, e.prot));
        let there = leaves.iter().map(|leaf| {
            let pa = F::decode_oa(leaf.word);
            (leaf.off, leaf.len_bytes, pa, F::prot(leaf.word))
        });
        assert!(told.eq(there), "page of an entry");
    }

    /// Asks for each page there is, and some beyond.
    fn check_every_page(&self) {
        let slot = self.f.slots.enter_fallback();
        for page in 0..self.pages.max(self.model.0.len() as u64) + 16 {
            assert_eq!(self.found(&slot, page), self.model.get(page), "page {page}");
        }
    }

    /// A7: no descriptor has a bit that the format does not define, and every
    /// table that is allocated is accounted for.
    fn check_words(&self) {
        let stats = self.f.table.stats();
        let counted = 1 + stats.live + stats.detached + stats.limbo + stats.spare;
        assert_eq!(self.arena.live_tables() as u64, counted);
        let address = F::encode_oa(F::decode_oa(u64::MAX));
        // Attributes, DBM, contiguous, never-execute; of tables NSTable and the
        // software bits.
        let leaf = address | 0xfff | 1 << 51 | 1 << 52 | 3 << 53;
        let table = address | 3 | 1 << 63 | 1 << 55 | 1 << 56;
        // SAFETY: this thread alone has the table, and no walker is there.
        let odd = unsafe { self.arena.undefined_bits(leaf | table) };
        assert_eq!(odd, 0, "{odd:#x}");
    }

    /// Changes the address in a live leaf behind the table's back.
    fn corrupt(&mut self, choices: &mut Choices<'_>) {
        while self.model.is_empty() {
            self.map(choices);
        }
        for index in 0..self.arena.table_words() {
            let word = self.arena.word_at(index);
            let value = word.load(std::sync::atomic::Ordering::Relaxed);
            // Descriptors of tables point into the arena, those of leaves do not.
            let arena = 0x1000_0000..0x1100_0000;
            if value & 1 == 1 && !arena.contains(&(value & 0xffff_ffff_f000)) {
                word.store(value ^ 1 << 40, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    /// What a sweep must see.
    pub fn sweep_corrupted(&mut self, choices: &mut Choices<'_>) {
        self.corrupt(choices);
        self.sweep();
    }

    /// What asking for every page must see.
    pub fn ask_corrupted(&mut self, choices: &mut Choices<'_>) {
        self.corrupt(choices);
        self.check_every_page();
    }

    /// What the iterator must tell.
    pub fn iterate_corrupted(&mut self, choices: &mut Choices<'_>) {
        while self.model.is_empty() {
            self.map(choices);
        }
        let leaves = self.sweep();
        self.corrupt(choices);
        self.check_entries(&leaves);
    }

    /// What a check of a range must see.
    pub fn check_corrupted(&mut self, choices: &mut Choices<'_>) {
        self.corrupt(choices);
        let first = self.model.next(0).unwrap();
        self.check(first, 20);
    }

    fn play(mut self, mut choices: Choices<'_>) {
        while !choices.is_empty() {
            self.step(&mut choices);
        }
        self.end();
    }

    /// Unmaps everything, frees everything.
    fn end(mut self) {
        let leaves = self.sweep();
        if self.every_page {
            self.check_every_page();
            self.check_entries(&leaves);
        }
        let first = self.f.table.input_range().0.0;
        for leaf in leaves {
            self.f.unmap(first + leaf.off, leaf.len_bytes).unwrap();
        }
        self.model = Model::default();
        self.reclaim(&mut Choices(&[1, 0]));
        self.check_words();
        let arena = self.arena.clone();
        drop(self.f);
        assert_eq!(arena.live_tables(), 0);
    }
}

/// Runs the bytes on one format, and asks for every page at the end. The first byte
/// says how often everything is compared.
pub fn run<F: Format>(config: TableConfig, bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let mut machine = Machine::<F>::new(config, arena::<F>(), choices.byte());
    machine.every_page = true;
    machine.play(choices);
}

/// [`run`], with table memory that is used again and again; the first byte also says
/// whether every page is asked for.
pub fn run_in<F: Format>(config: TableConfig, arena: Arc<Arena>, bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let machine = Machine::<F>::new(config, arena, choices.byte());
    machine.play(choices);
}
