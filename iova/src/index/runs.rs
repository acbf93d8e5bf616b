//! Free runs as they are, not as aligned blocks.

use super::{
    Index,
    node::{Child, Node, child_lg2, child_of, whole},
};

/// What lies around a page.
enum Around<'n> {
    Taken,
    /// The page is in child `.1` of a node of height `.2`, which is wholly free.
    Whole(&'n Node, usize, u32),
    /// The free pages of the word the page is in.
    Word(u64),
}

impl Index {
    fn around(&self, page: u64) -> Around<'_> {
        let mut node = self.root();
        let mut height = self.height;
        loop {
            let at = child_of(page, height);
            let byte = node.orders[at];
            if byte == 0 {
                return Around::Taken;
            }
            if byte == whole(height) {
                return Around::Whole(node, at, height);
            }
            if height == 1 {
                return Around::Word(node.word(at));
            }
            node = self.node(node.child(at));
            height -= 1;
        }
    }

    /// The first page from `page` on that is not free, `bound` at most.
    pub(super) fn run_end(&self, page: u64, bound: u64) -> u64 {
        let bound = bound.min(self.end());
        let mut at = page;
        while at < bound {
            match self.around(at) {
                Around::Taken => return at,
                Around::Whole(node, child, height) => {
                    let run = (node.whole_children(height) >> child).trailing_ones();
                    let lg2 = child_lg2(height);
                    at = ((at >> lg2) + u64::from(run)) << lg2;
                }
                Around::Word(pages) => {
                    let run = (pages >> (at & 63)).trailing_ones();
                    at += u64::from(run);
                    if run == 0 || at & 63 != 0 {
                        break;
                    }
                }
            }
        }
        at.min(bound)
    }

    /// The lowest page, `bound` at least, from which on all pages below `page`
    /// are free.
    pub(super) fn run_start(&self, page: u64, bound: u64) -> u64 {
        let mut at = page;
        while at > bound {
            let before = at - 1;
            match self.around(before) {
                Around::Taken => return at,
                Around::Whole(node, child, height) => {
                    let run = (node.whole_children(height) << (63 - child)).leading_ones();
                    let lg2 = child_lg2(height);
                    at = ((before >> lg2) + 1 - u64::from(run)) << lg2;
                }
                Around::Word(pages) => {
                    let run = (pages << (63 - (before & 63))).leading_ones();
                    at -= u64::from(run);
                    if run == 0 || at & 63 != 0 {
                        break;
                    }
                }
            }
        }
        at.max(bound)
    }

    /// Pages of the longest free run.
    pub(crate) fn largest_free_run(&mut self) -> u64 {
        self.settle();
        let mut longest = 0;
        let mut from = 0;
        // A longer run contains a block of this order.
        while let Some(block) = self.first_block((longest + 2u64).ilog2() - 1, from, self.end()) {
            let high = self.run_end(block, self.end());
            longest = longest.max(high - self.run_start(block, from));
            from = high;
            if from >= self.end() {
                break;
            }
        }
        longest
    }
}

const _: () = assert!(size_of::<Child>() <= 8);
