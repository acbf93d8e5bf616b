//! Where the highest free blocks are, so that a search need not start at the
//! root.

use super::{
    Index, LEAF_LG2,
    bits::{aligned_runs, at_least},
    node::{Node, child_lg2, whole},
};

/// Orders of blocks that are smaller than a leaf.
const ORDERS: usize = LEAF_LG2 as usize;

/// For each order below a leaf's the number (page >> 12) of a leaf above which
/// no free aligned block of that order lies, but for the leaf of the remembered
/// path while that is unsettled.
///
/// The numbers never rise with the order: where a block is free, its halves
/// are. So a change ends at the first order it leaves as it is.
#[derive(Clone, Debug)]
pub(super) struct Tops([u64; ORDERS]);

impl Tops {
    pub(super) fn new(last_leaf: u64) -> Self {
        Tops([last_leaf; ORDERS])
    }

    /// A leaf has free blocks of the orders below `count`.
    #[inline]
    pub(super) fn raise(&mut self, count: u32, leaf: u64) {
        for top in self.0[..(count as usize).min(ORDERS)].iter_mut().rev() {
            if *top >= leaf {
                return;
            }
            *top = leaf;
        }
    }

    /// Blocks of any order may have become free up to a leaf.
    pub(super) fn raise_all(&mut self, leaf: u64) {
        self.raise(ORDERS as u32, leaf);
    }

    /// The highest free block of this order lies in this leaf.
    #[inline]
    fn lower(&mut self, order: u32, leaf: u64) {
        for top in &mut self.0[order as usize..] {
            if *top <= leaf {
                return;
            }
            *top = leaf;
        }
    }

    #[cfg(test)]
    pub(super) fn get(&self, order: u32) -> u64 {
        self.0[order as usize]
    }
}

/// The highest aligned free block in a leaf, from its first page on.
#[inline]
fn highest_in_leaf(leaf: &Node, order: u32) -> Option<u64> {
    if order < child_lg2(1) {
        let fits = at_least(&leaf.orders, order as u8 + 1);
        if fits == 0 {
            return None;
        }
        let at = fits.ilog2();
        let runs = aligned_runs(leaf.word(at as usize), order);
        debug_assert!(runs != 0, "the byte says so");
        Some(u64::from(at << 6 | (runs | 1).ilog2()))
    } else {
        let runs = aligned_runs(leaf.whole_children(1), order - child_lg2(1));
        if runs == 0 {
            return None;
        }
        Some(u64::from(runs.ilog2() << 6))
    }
}

impl Index {
    /// The highest aligned free block of `1 << order` pages, if it is known to
    /// lie below `end`. None if there is none, or this is not known.
    #[inline]
    pub(super) fn top_block(&mut self, order: u32, end: u64, visited: &mut u64) -> Option<u64> {
        let top = *self.tops.0.get(order as usize)?;
        let own = self.path_page >> LEAF_LG2;
        if (top.max(own) + 1) << LEAF_LG2 > end {
            return None;
        }
        if own >= top && self.path_low == 1 {
            *visited += 1;
            let leaf = self.node(self.path[1]);
            if let Some(page) = highest_in_leaf(leaf, order) {
                return Some(own << LEAF_LG2 | page);
            }
        }
        self.climb(order, visited)
    }

    /// Goes up the remembered path until a block lies below it, and down to it.
    #[inline(never)]
    fn climb(&mut self, order: u32, visited: &mut u64) -> Option<u64> {
        if self.height == 1 {
            return None;
        }
        self.settle();
        let page = self.tops.0[order as usize] << LEAF_LG2;
        let differ = (page ^ self.path_page) | 1;
        let mut height = (differ.ilog2() / 6).max(self.path_low).max(2);
        let least = order as u8 + 1;
        // Of the children above the top, no byte is that large.
        let mut fits;
        loop {
            *visited += 1;
            fits = at_least(&self.node(self.path[height as usize]).orders, least);
            if fits != 0 {
                break;
            }
            if height == self.height {
                return None;
            }
            height += 1;
        }
        let mut node = self.node(self.path[height as usize]);
        let mut base = page >> child_lg2(height + 1) << child_lg2(height + 1);
        loop {
            let at = fits.ilog2() as usize;
            base |= (at as u64) << child_lg2(height);
            let child = node.child(at);
            if child.is_null() {
                debug_assert_eq!(node.orders[at], whole(height));
                base += (1 << child_lg2(height)) - (1 << order);
                break;
            }
            *visited += 1;
            node = self.node(child);
            height -= 1;
            if height == 1 {
                base |= highest_in_leaf(node, order)?;
                break;
            }
            fits = at_least(&node.orders, least);
            debug_assert!(fits != 0);
        }
        self.tops.lower(order, base >> LEAF_LG2);
        Some(base)
    }
}
