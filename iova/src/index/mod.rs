//! The free-space index: a 64-ary radix tree over page numbers.
//!
//! Each child of a [node](node::Node) has one byte, the order of the largest
//! aligned free run inside it; the lowest height, the leaves, keeps a bitmap of
//! 64 pages per child. A search compares 64 bytes at a time on its way down; a
//! change goes up until a byte stays as it is. So every call costs a bounded
//! number of nodes, whatever the history, and there is nothing per live range.
//! A child that is wholly free or wholly taken has no node.
//!
//! **Freeing needs no memory**: a range is freed as it was taken, so a child it
//! covers only in part has had its node since the range was taken, and that node
//! goes only when all its pages are free.
//!
//! **The remembered path.** The nodes on the way to the last changed page stay
//! known, so a change nearby starts where the ways part. Searches only read it;
//! only [`Index::seek`] writes it, and a seek that fails forgets it. Nodes that
//! become wholly free stay while the path leads through them (take and free in
//! turn would else allocate and free nodes all the time) and go when it turns
//! away.
//!
//! **The leaf of the path settles late.** A change inside one leaf marks the
//! leaf alone. The nodes above hear of it when the path turns away or when a
//! search has to look at them ([`Index::settle`]). Where a range is freed and
//! one of its size allocated, the leaf is by then as it was and there is nothing
//! to tell.
//!
//! **Searches start high up, but not at the root.** For each order below a
//! leaf's it is known above which leaf there is no free block
//! ([`top::Tops`]). A search for the highest address looks into the leaf of the
//! path if that is not below the top, and else goes up the path from where the
//! way to the top leaves it, and down again. The lowest address, the best fit
//! and a limit below the top start at the root.
//!
//! # Figures
//!
//! Instructions (`cargo bench --bench iova_ir`; release, x86-64) to free a
//! random range and allocate one of the same size, caches off, lock and section
//! included, 66 of them the bench's own. Beside them what it was when
//! every change went up at once and every search started at the root:
//!
//! | size | 1k live | 100k live | 300k live |
//! |---|---|---|---|
//! | 1 page | 465 (875) | 563 (1103) | 569 (1256) |
//! | 64 pages | 547 (1156) | 566 (1342) | 571 (1494) |
//! | 64 to 512 pages | 909 (1673) | 1073 (1868) | |
//! | 64 pages, last in first out; 0 and 100k live | 394 (1570) | 392 (1053) | |
//!
//! Minimum time per pair on a machine busy with other work, in ns, where an
//! uncontended compare-and-swap and store took 2.55 ns: 70 for one page, 79 for
//! 64 and 259 for 64 to 512 at 100k live; 122, 215 and 427 at 300k; 31 last in
//! first out.
//!
//! A call that releases four nodes and needs four others takes 4514, memory
//! allocator and section included. A search that starts at the path visits 9 nodes
//! at most in a 48-bit space, and 1 as a rule.
//!
//! Memory per live range (`tests/memory.rs`): 0.19 bytes for dense single
//! pages, 1.9 when nine of ten were freed at random, 9.2 for 64 pages.
//!
//! # Rejected
//!
//! * **An ordered map of free runs** (`BTreeMap<first, last>`), the first form
//!   of this module. While a space has few holes it is even faster (60 ns
//!   against 129 ns for one page at 100k live, in the same sitting). But a
//!   search is linear in the holes too small for it: setting up 100,000 live
//!   ranges of 64 to 512 pages and 50,000 rounds did not end within a minute
//!   (here: a fraction of a second), and freeing needs memory where it makes a
//!   new hole.
//! * **Telling the nodes above at once**, and every search from the root: the
//!   figures in brackets. The bytes of up to five nodes were summed up after
//!   every call, and the next call undid it.
//! * **A remembered top that includes the leaf of the path.** Each free raised
//!   it and nothing lowered it to where it was, so that every other search of
//!   the random rows climbed: 859 instructions instead of 616 for 64 pages at
//!   100k live.
//! * **Partly free blocks before whole ones** for sizes that are no power of
//!   two, to pack tighter. Without a bound on the nodes it looked at, an
//!   allocation cost 110,000 instructions at 100k live: the bytes of the nodes
//!   above do not say whether a block lies at the right multiple. Whole blocks
//!   first, and the rest only before a refusal, fills a 32-bit space to 80 %
//!   with sizes of 1 to 512 pages, aligned.

mod bits;
mod node;
mod runs;
mod search;
#[cfg(test)]
mod tests;
mod top;

use core::{fmt, ptr::NonNull};

use bits::{OrderByte, below};
pub(crate) use node::NoMemory;
use node::{Node, child_lg2, child_of, whole};
pub(crate) use search::{Place, ceil_lg2};
use top::Tops;

/// 9 heights of 6 bits and the words: 60 bits, more than any page number has.
const MAX_HEIGHT: usize = 9;
/// Base-2 logarithm of the pages a node of height 1 stands for.
const LEAF_LG2: u32 = 12;

/// Ranges of up to so many pages (the base-2 logarithm of it), aligned to that,
/// may be given back in other portions than they were taken in: they lie in one
/// leaf, which has its node for as long as one of its pages is taken.
pub(crate) const PORTIONS_LG2: u32 = LEAF_LG2 - 1;

/// The free-space index. Pages are absolute: address / granule.
pub(crate) struct Index {
    root: NonNull<Node>,
    height: u32,
    /// The nodes over `path_page` by height, from `path_low` to `height`.
    path: [*mut Node; MAX_HEIGHT + 1],
    path_page: u64,
    path_low: u32,
    /// Some node below the root on the path may be wholly free.
    idle: bool,
    /// The nodes above may not know yet what changed in the leaf of the path.
    unsettled: bool,
    tops: Tops,
    /// The last page that was free at first.
    last: u64,
    /// The first page the tree has no bit for.
    end: u64,
    free_pages: u64,
    nodes: usize,
    effort: Effort,
    /// The last search that found nothing; until something is freed, no
    /// request that is no easier can succeed.
    refused: Option<Place>,
}

/// What searches cost: the machine-independent figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    pub(crate) searches: u64,
    pub(crate) nodes_visited: u64,
    pub(crate) nodes_visited_max: u64,
}

// SAFETY: the nodes are owned by the index alone and hold plain numbers.
unsafe impl Send for Index {}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("height", &self.height)
            .field("nodes", &self.nodes)
            .field("free_pages", &self.free_pages)
            .finish_non_exhaustive()
    }
}

impl Index {
    /// An index in which the pages `first..=last` are free.
    pub(crate) fn new(first: u64, last: u64) -> Result<Self, NoMemory> {
        debug_assert!(first <= last && last < 1 << 52);
        let bits = u64::BITS - last.leading_zeros();
        let height = bits.div_ceil(6).max(2) - 1;
        let root = Node::allocate(height)?;
        let mut path = [core::ptr::null_mut(); MAX_HEIGHT + 1];
        path[height as usize] = root.as_ptr();
        let mut index = Index {
            root,
            height,
            path,
            path_page: 0,
            path_low: height,
            idle: false,
            unsettled: false,
            tops: Tops::new((1 << child_lg2(height + 1) >> LEAF_LG2) - 1),
            last,
            end: 1 << child_lg2(height + 1),
            free_pages: 1 << child_lg2(height + 1),
            nodes: 1,
            effort: Effort::default(),
            refused: None,
        };
        if first > 0 {
            index.take(0, first)?;
        }
        let beyond = last + 1;
        if beyond < index.end() {
            index.take(beyond, index.end() - beyond)?;
        }
        Ok(index)
    }

    /// The first page the tree has no bit for.
    #[inline]
    fn end(&self) -> u64 {
        self.end
    }

    /// Takes a range that satisfies `place`; its first page.
    #[inline]
    pub(crate) fn alloc(&mut self, place: Place) -> Result<Option<u64>, NoMemory> {
        let Some(start) = self.find(place) else {
            return Ok(None);
        };
        self.take(start, place.size)?;
        Ok(Some(start))
    }

    /// Takes `size` pages from `start` on; all of them are free.
    #[inline(always)]
    pub(crate) fn take(&mut self, start: u64, size: u64) -> Result<(), NoMemory> {
        if in_one_leaf(start, size) {
            self.seek(start)?;
            self.mark_in_leaf(start, size, false);
        } else {
            self.take_across_leaves(start, size)?;
        }
        self.free_pages -= size;
        Ok(())
    }

    #[inline(never)]
    fn take_across_leaves(&mut self, start: u64, size: u64) -> Result<(), NoMemory> {
        self.make_edges(start, size)?;
        self.mark(start, size, false);
        Ok(())
    }

    /// Gives back `size` pages from `start` on, which were taken as one range (or,
    /// within [`PORTIONS_LG2`] aligned pages, in other portions).
    #[inline(always)]
    pub(crate) fn free(&mut self, start: u64, size: u64) {
        if in_one_leaf(start, size) {
            let found = self.seek(start);
            debug_assert_eq!(found, Ok(()), "a taken page has its nodes");
            self.mark_in_leaf(start, size, true);
        } else {
            self.free_across_leaves(start, size);
        }
        self.free_pages += size;
        self.refused = None;
    }

    #[inline(never)]
    fn free_across_leaves(&mut self, start: u64, size: u64) {
        let last = start + (size - 1);
        self.leave_path();
        self.mark(start, size, true);
        self.prune(start);
        self.prune(last);
        self.tops.raise_all(last >> LEAF_LG2);
    }

    /// Whether all of `first..=last` is free.
    pub(crate) fn is_free(&mut self, first: u64, last: u64) -> bool {
        self.settle();
        self.run_end(first, last + 1) == last + 1
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.free_pages
    }

    pub(crate) fn effort(&self) -> Effort {
        self.effort
    }

    /// Memory of all nodes.
    pub(crate) fn bytes(&self) -> usize {
        self.nodes * size_of::<Node>()
    }

    fn node(&self, node: *mut Node) -> &Node {
        // SAFETY: every pointer in the tree and on the path down to `path_low`
        // is a living node of this index, which `&self` keeps from changing.
        unsafe { &*node }
    }

    fn node_mut(&mut self, node: *mut Node) -> &mut Node {
        // SAFETY: as above, and `&mut self` keeps everybody else out.
        unsafe { &mut *node }
    }

    fn root(&self) -> &Node {
        self.node(self.root.as_ptr())
    }

    /// Makes the path lead to `page`, with new nodes where a wholly free child
    /// has none.
    #[inline]
    fn seek(&mut self, page: u64) -> Result<(), NoMemory> {
        if (page ^ self.path_page) >> LEAF_LG2 == 0 && self.path_low == 1 {
            return Ok(());
        }
        self.seek_from_fork(page)
    }

    #[inline(never)]
    fn seek_from_fork(&mut self, page: u64) -> Result<(), NoMemory> {
        self.settle();
        let differ = (page ^ self.path_page) | 1;
        let mut height = (differ.ilog2() / 6).max(self.path_low);
        if self.idle {
            self.release_idle(height);
        }
        while height > 1 {
            let node = self.path[height as usize];
            let at = child_of(page, height);
            let mut child = self.node(node).child(at);
            if child.is_null() {
                core::hint::cold_path();
                debug_assert_eq!(self.node(node).orders[at], whole(height));
                match Node::allocate(height - 1) {
                    Ok(fresh) => child = fresh.as_ptr(),
                    Err(error) => {
                        self.forget_path();
                        // What was made on the way here is wholly free.
                        self.prune(page);
                        return Err(error);
                    }
                }
                self.nodes += 1;
                self.node_mut(node).children[at].node = child;
            }
            height -= 1;
            self.path[height as usize] = child;
        }
        self.path_page = page;
        self.path_low = 1;
        Ok(())
    }

    /// Forgets the path, after what it held back is done.
    fn leave_path(&mut self) {
        self.settle();
        self.release_idle(self.height);
        self.forget_path();
    }

    fn forget_path(&mut self) {
        debug_assert!(!self.unsettled);
        self.path_low = self.height;
        self.idle = false;
    }

    /// Before the path turns away below `height`: releases what of it is wholly
    /// free there.
    #[cold]
    #[inline(never)]
    fn release_idle(&mut self, height: u32) {
        for at_height in (self.path_low.max(2)..=height).rev() {
            let node = self.path[at_height as usize];
            if self.detach_if_whole(node, at_height, self.path_page) {
                break;
            }
        }
        if height == self.height {
            self.idle = false;
        }
    }

    /// Releases wholly free nodes on the way to `page`. The path must not lead
    /// there, or be forgotten.
    fn prune(&mut self, page: u64) {
        let mut node = self.root.as_ptr();
        for height in (2..=self.height).rev() {
            if self.detach_if_whole(node, height, page) {
                return;
            }
            node = self.node(node).child(child_of(page, height));
            if node.is_null() {
                return;
            }
        }
    }

    fn detach_if_whole(&mut self, node: *mut Node, height: u32, page: u64) -> bool {
        let at = child_of(page, height);
        let parent = self.node_mut(node);
        if parent.orders[at] != whole(height) {
            return false;
        }
        let child = parent.take_child(at);
        self.release_tree(child, height - 1);
        true
    }

    /// Gives back the memory of a detached node and all below it.
    fn release_tree(&mut self, node: *mut Node, height: u32) {
        let Some(owned) = NonNull::new(node) else {
            return;
        };
        if height > 1 {
            for at in 0..64 {
                let child = self.node(node).child(at);
                if !child.is_null() {
                    self.release_tree(child, height - 1);
                }
            }
        }
        self.nodes -= 1;
        // SAFETY: the node came from `allocate`, and nothing points to it any
        // more: the caller detached it, and no path entry below `path_low` or
        // where the path turns away is used again.
        unsafe { Node::release(owned) };
    }

    /// Marks pages of the leaf the path leads to. The nodes above hear of it
    /// when the path turns away, or a search looks at them.
    #[inline(always)]
    fn mark_in_leaf(&mut self, start: u64, size: u64, free: bool) {
        self.unsettled = true;
        let low = start as u32 & (below(LEAF_LG2) as u32);
        let at = (low >> 6) as usize;
        let bit = low & 63;
        let leaf = self.node_mut(self.path[1]);
        if u64::from(bit) + size <= 64 {
            let mask = !0 >> (64 - size) << bit;
            let pages = leaf.word(at);
            debug_assert_eq!(pages & mask, if free { 0 } else { mask });
            leaf.set_word(at, pages ^ mask);
        } else {
            leaf.flip(low, low + size as u32, free);
        }
    }

    /// Tells the nodes above the leaf of the path what changed in it.
    #[inline]
    fn settle(&mut self) {
        if !self.unsettled {
            return;
        }
        self.unsettled = false;
        let summary = self.node(self.path[1]).summary(1);
        if summary == whole(2) {
            // Even if the node above never heard that it was not.
            self.idle = true;
        }
        self.tops
            .raise(u32::from(summary), self.path_page >> LEAF_LG2);
        if self.height == 1 {
            return;
        }
        let before = self.node(self.path[2]).orders[child_of(self.path_page, 2)];
        if summary != before {
            self.tell_above(before, summary);
        }
    }

    /// Brings the bytes over the leaf of the path up to date, after its byte
    /// changed.
    #[inline(never)]
    fn tell_above(&mut self, mut was: OrderByte, mut is: OrderByte) {
        for height in 2..=self.height {
            let at = child_of(self.path_page, height);
            if is == whole(height) {
                self.idle = true;
            }
            let node = self.path[height as usize];
            self.node_mut(node).orders[at] = is;
            if height == self.height {
                return;
            }
            let over = self.path[height as usize + 1];
            let above = self.node(over).orders[child_of(self.path_page, height + 1)];
            let summary = self.node(node).summary_after(height, above, was, is);
            if summary == above {
                return;
            }
            (was, is) = (above, summary);
        }
    }

    /// Makes the nodes over both ends of a range that the range covers in part.
    fn make_edges(&mut self, start: u64, size: u64) -> Result<(), NoMemory> {
        self.leave_path();
        let last = start + (size - 1);
        for edge in [start, last] {
            if let Err(error) = self.make_edge(edge, start, last) {
                self.prune(start);
                self.prune(last);
                return Err(error);
            }
        }
        Ok(())
    }

    fn make_edge(&mut self, edge: u64, start: u64, last: u64) -> Result<(), NoMemory> {
        let mut node = self.root.as_ptr();
        for height in (2..=self.height).rev() {
            let pages = below(child_lg2(height));
            if edge & !pages >= start && edge | pages <= last {
                return Ok(());
            }
            let at = child_of(edge, height);
            let mut child = self.node(node).child(at);
            if child.is_null() {
                child = Node::allocate(height - 1)?.as_ptr();
                self.nodes += 1;
                self.node_mut(node).children[at].node = child;
            }
            node = child;
        }
        Ok(())
    }

    /// Marks a range of any size; the nodes it covers in part exist, and the
    /// path is forgotten.
    fn mark(&mut self, start: u64, size: u64, free: bool) {
        debug_assert_eq!(self.path_low, self.height);
        let last = start + (size - 1);
        self.mark_below(self.root.as_ptr(), self.height, start, last, free);
    }

    /// Marks the part of `start..=last` that lies in `node`; `start` and `last`
    /// are in it.
    fn mark_below(&mut self, node: *mut Node, height: u32, start: u64, last: u64, free: bool) {
        let lg2 = child_lg2(height);
        for at in child_of(start, height)..=child_of(last, height) {
            let first_in = (start >> lg2 >> 6 << 6 | at as u64) << lg2;
            let last_in = first_in | below(lg2);
            let (low, high) = (start.max(first_in), last.min(last_in));
            if height == 1 {
                let mask = bits::span((low & 63) as u32, (high & 63) as u32 + 1);
                let leaf = self.node_mut(node);
                let pages = leaf.word(at);
                debug_assert_eq!(pages & mask, if free { 0 } else { mask });
                leaf.set_word(at, pages ^ mask);
            } else if low == first_in && high == last_in {
                let parent = self.node_mut(node);
                parent.orders[at] = if free { whole(height) } else { 0 };
                let child = parent.take_child(at);
                self.release_tree(child, height - 1);
            } else {
                let child = self.node(node).child(at);
                debug_assert!(!child.is_null());
                self.mark_below(child, height - 1, low, high, free);
                let summary = self.node(child).summary(height - 1);
                self.node_mut(node).orders[at] = summary;
            }
        }
    }
}

/// Whether a range is smaller than a leaf's share and inside one leaf.
#[inline]
fn in_one_leaf(start: u64, size: u64) -> bool {
    (start & below(LEAF_LG2)) + size <= 1 << LEAF_LG2 && size < 1 << LEAF_LG2
}

impl Drop for Index {
    fn drop(&mut self) {
        self.release_tree(self.root.as_ptr(), self.height);
        debug_assert_eq!(self.nodes, 0, "a node was lost");
    }
}
