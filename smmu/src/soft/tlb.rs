//! What the SMMU remembers: translations and table pointers that never go away
//! by themselves.
//!
//! Hardware may evict an entry at any time; code that is right only if it does
//! is wrong. So nothing is evicted here, and an invalidation removes what the
//! specification promises and nothing else.

use alloc::{collections::BTreeMap, vec::Vec};

use dmabench_platform::Granule;

use super::command::Reach;
use super::walk::Rights;

/// `stale_since` of an entry nobody found stale yet.
pub(super) const NEVER: u64 = u64::MAX;

/// A cached translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// First byte of the output.
    pub(super) phys: u64,
    /// Number of the step that made the entry.
    pub(super) born: u64,
    /// When an access last found it fresh, in ns.
    pub(super) last_fresh: u64,
    /// When an access first found it stale, or [`NEVER`].
    pub(super) stale_since: u64,
    pub(super) rights: Rights,
    /// A write may yet make it writable in the table.
    pub(super) dbm: bool,
    /// Its invalidation has completed: no access may use it any more.
    pub(super) condemned: bool,
}

impl Entry {
    const EMPTY: Entry = Entry {
        phys: 0,
        born: 0,
        last_fresh: 0,
        stale_since: NEVER,
        rights: Rights::NONE,
        dbm: false,
        condemned: false,
    };
}

const BLOCK_LG2: u32 = 6;
const BLOCK: usize = 1 << BLOCK_LG2;

/// 64 neighbouring entries of a class, so that a range of pages costs a few
/// look-ups and masks rather than one look-up per page.
struct Block {
    present: u64,
    entries: [Entry; BLOCK],
}

/// Entries of one size. The level and the granule are those that invalidations
/// are matched against.
struct Class {
    granule: Granule,
    level: i8,
    lg2: u32,
    blocks: Vec<Block>,
    spare: Vec<u32>,
    index: BTreeMap<u64, u32>,
    /// The block found last: accesses come page after page.
    last: Option<(u64, u32)>,
    count: u64,
}

impl Class {
    fn block_at(&mut self, key: u64) -> Option<usize> {
        if let Some((last, at)) = self.last
            && last == key
        {
            return Some(at as usize);
        }
        let at = *self.index.get(&key)?;
        self.last = Some((key, at));
        Some(at as usize)
    }

    fn find(&mut self, address: u64) -> Option<&mut Entry> {
        let number = address >> self.lg2;
        let at = self.block_at(number >> BLOCK_LG2)?;
        let bit = number as usize % BLOCK;
        let block = &mut self.blocks[at];
        (block.present >> bit & 1 != 0).then(|| &mut block.entries[bit])
    }

    fn insert(&mut self, address: u64, entry: Entry) {
        let number = address >> self.lg2;
        let key = number >> BLOCK_LG2;
        let at = match self.block_at(key) {
            Some(at) => at,
            None => {
                let at = self.spare.pop().unwrap_or_else(|| {
                    self.blocks.push(Block {
                        present: 0,
                        entries: [Entry::EMPTY; BLOCK],
                    });
                    (self.blocks.len() - 1) as u32
                });
                self.index.insert(key, at);
                self.last = Some((key, at));
                at as usize
            }
        };
        let bit = number as usize % BLOCK;
        let block = &mut self.blocks[at];
        self.count += u64::from(block.present >> bit & 1 == 0);
        block.present |= 1 << bit;
        block.entries[bit] = entry;
    }

    /// Calls `f` with each block that overlaps the addresses, and the mask of
    /// the entries that do; drops blocks that `f` leaves empty.
    fn for_each_block(&mut self, first: u64, last: u64, mut f: impl FnMut(&mut Block, u64)) {
        let first = first >> self.lg2;
        let last = last >> self.lg2;
        let mut emptied = Vec::new();
        for (key, at) in self.index.range(first >> BLOCK_LG2..=last >> BLOCK_LG2) {
            let base = key << BLOCK_LG2;
            let low = first.saturating_sub(base);
            let high = (last - base).min(BLOCK as u64 - 1);
            let mask = (u64::MAX >> (63 - high)) & (u64::MAX << low);
            let block = &mut self.blocks[*at as usize];
            let before = block.present.count_ones();
            f(block, mask);
            self.count -= u64::from(before - block.present.count_ones());
            if block.present == 0 {
                emptied.push(*key);
            }
        }
        for key in emptied {
            if let Some(at) = self.index.remove(&key) {
                self.spare.push(at);
            }
            self.last = None;
        }
    }
}

/// A cached table pointer.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkEntry {
    /// First byte of the table it leads to.
    pub(super) table: u64,
    /// Rights that everything below has lost.
    pub(super) loses: Rights,
    /// Nested: `table` is a physical address, stage 2 is behind it.
    pub(super) resolved: bool,
    /// Number of the step that made the entry.
    pub(super) born: u64,
    /// Its invalidation has completed.
    pub(super) condemned: bool,
}

/// Table pointers read from tables of one level.
struct WalkClass {
    granule: Granule,
    level: i8,
    lg2: u32,
    entries: BTreeMap<u64, WalkEntry>,
}

/// Everything cached under one tag: a VMID and ASID, or the stage 2 of a VMID.
#[derive(Default)]
pub(super) struct Space {
    classes: Vec<Class>,
    walks: Vec<WalkClass>,
}

impl Space {
    /// The entry that translates `address`. Where several do, the oldest: the
    /// one that is least likely to be right.
    pub(super) fn find(&mut self, address: u64) -> Option<(&mut Entry, u32)> {
        let mut best: Option<(&mut Entry, u32)> = None;
        for class in &mut self.classes {
            let lg2 = class.lg2;
            if let Some(entry) = class.find(address)
                && best.as_ref().is_none_or(|(b, _)| entry.born < b.born)
            {
                best = Some((entry, lg2));
            }
        }
        best
    }

    /// Remembers a translation of `1 << lg2` bytes.
    pub(super) fn insert(
        &mut self,
        granule: Granule,
        level: i8,
        lg2: u32,
        address: u64,
        entry: Entry,
    ) {
        let same = |c: &Class| c.granule == granule && c.level == level && c.lg2 == lg2;
        let at = match self.classes.iter().position(same) {
            Some(at) => at,
            None => {
                self.classes.push(Class {
                    granule,
                    level,
                    lg2,
                    blocks: Vec::new(),
                    spare: Vec::new(),
                    index: BTreeMap::new(),
                    last: None,
                    count: 0,
                });
                self.classes.len() - 1
            }
        };
        self.classes[at].insert(address, entry);
    }

    /// The cached table pointer nearest to the leaf, with the level it was read
    /// at.
    pub(super) fn deepest_walk(&self, granule: Granule, address: u64) -> Option<(i8, WalkEntry)> {
        let mut best: Option<(i8, WalkEntry)> = None;
        for class in &self.walks {
            if class.granule == granule
                && best.is_none_or(|(level, _)| class.level > level)
                && let Some(entry) = class.entries.get(&(address >> class.lg2))
            {
                best = Some((class.level, *entry));
            }
        }
        best
    }

    /// Remembers a table pointer that was read at `level`, where one entry
    /// covers `1 << lg2` bytes. An older one for the same place stays: it was
    /// not invalidated.
    pub(super) fn insert_walk(
        &mut self,
        granule: Granule,
        level: i8,
        lg2: u32,
        address: u64,
        entry: WalkEntry,
    ) {
        let same = |c: &WalkClass| c.granule == granule && c.level == level;
        let at = match self.walks.iter().position(same) {
            Some(at) => at,
            None => {
                self.walks.push(WalkClass {
                    granule,
                    level,
                    lg2,
                    entries: BTreeMap::new(),
                });
                self.walks.len() - 1
            }
        };
        self.walks[at]
            .entries
            .entry(address >> lg2)
            .or_insert(entry);
    }

    /// Removes what an invalidation by address certainly removes: leaf entries
    /// that overlap the range, of the stated granule and level; and, unless it
    /// is for leaves only, table pointers of the range above that level.
    ///
    /// An entry that overlaps goes as a whole, since a contiguous run or a block
    /// is one entry (Arm DDI 0487, D8.14).
    pub(super) fn invalidate(&mut self, reach: &Reach) {
        for class in &mut self.classes {
            let granule = reach.granule.is_none_or(|g| g == class.granule);
            let level = reach.level.is_none_or(|l| l == class.level);
            if granule && level && class.count != 0 {
                class.for_each_block(reach.first, reach.last, |block, mask| {
                    block.present &= !mask;
                });
            }
        }
        if reach.leaf_only {
            return;
        }
        for class in &mut self.walks {
            let granule = reach.granule.is_none_or(|g| g == class.granule);
            let level = reach.level.is_none_or(|l| class.level < l);
            if granule && level {
                let keys = reach.first >> class.lg2..=reach.last >> class.lg2;
                let gone: Vec<u64> = class.entries.range(keys).map(|(key, _)| *key).collect();
                for key in gone {
                    class.entries.remove(&key);
                }
            }
        }
    }

    /// Marks what is left of what `reach` should have removed and was there at
    /// step `before`: whoever uses it breaks the rules.
    pub(super) fn condemn(&mut self, reach: &Reach, before: u64) {
        for class in &mut self.classes {
            let granule = reach.granule.is_none_or(|g| g == class.granule);
            let level = reach.level.is_none_or(|l| l == class.level);
            if granule && level && class.count != 0 {
                class.for_each_block(reach.first, reach.last, |block, mask| {
                    let mut left = block.present & mask;
                    while left != 0 {
                        let entry = &mut block.entries[left.trailing_zeros() as usize];
                        entry.condemned |= entry.born < before;
                        left &= left - 1;
                    }
                });
            }
        }
        if reach.leaf_only {
            return;
        }
        for class in &mut self.walks {
            if reach.granule.is_none_or(|g| g == class.granule) {
                let keys = reach.first >> class.lg2..=reach.last >> class.lg2;
                for (_, entry) in class.entries.range_mut(keys) {
                    entry.condemned |= entry.born < before;
                }
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.classes.clear();
        self.walks.clear();
    }

    /// Cached translations and table pointers.
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.classes.iter().map(|c| c.count).sum(),
            self.walks.iter().map(|c| c.entries.len() as u64).sum(),
        )
    }
}
