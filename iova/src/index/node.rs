//! Nodes of the tree: 64 order bytes, and 64 words or children.

use alloc::alloc::{alloc, dealloc};
use core::{alloc::Layout, ptr::NonNull};

use super::bits::{OrderByte, at_least, largest, order_byte};

/// What a child is: at the lowest height 64 pages, one bit each and set where
/// free; above, a node.
#[derive(Clone, Copy)]
pub(super) union Child {
    pub(super) pages: u64,
    /// Null where the byte says it all: nothing free, or everything.
    pub(super) node: *mut Node,
}

/// A node of *height* `h >= 1` stands for `64 << 6h` pages, each child for
/// `1 << 6h`. 576 bytes, the bytes in a cache line of their own.
#[repr(C, align(64))]
pub(super) struct Node {
    pub(super) orders: [OrderByte; 64],
    pub(super) children: [Child; 64],
}

/// Base-2 logarithm of the pages a child of a node of this height stands for.
#[inline]
pub(super) const fn child_lg2(height: u32) -> u32 {
    6 * height
}

/// The byte of a child, at this height of its parent, that is wholly free.
#[inline]
pub(super) const fn whole(height: u32) -> OrderByte {
    child_lg2(height) as OrderByte + 1
}

/// Which child of a node of this height `page` lies in.
#[inline]
pub(super) const fn child_of(page: u64, height: u32) -> usize {
    (page >> child_lg2(height)) as usize & 63
}

/// No memory for a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

impl Node {
    /// A node of which every page is free.
    pub(super) fn allocate(height: u32) -> Result<NonNull<Node>, NoMemory> {
        // SAFETY: the layout of a node is not of size 0.
        let memory = unsafe { alloc(Layout::new::<Node>()) };
        let node = NonNull::new(memory.cast::<Node>()).ok_or(NoMemory)?;
        let child = if height == 1 {
            Child { pages: !0 }
        } else {
            Child {
                node: core::ptr::null_mut(),
            }
        };
        // SAFETY: fresh memory of a node's layout, nobody else knows it.
        unsafe {
            node.write(Node {
                orders: [whole(height); 64],
                children: [child; 64],
            });
        }
        Ok(node)
    }

    /// Gives the node's memory back, not its children's.
    ///
    /// # Safety
    ///
    /// `node` came from [`allocate`](Self::allocate) and nobody uses it again.
    pub(super) unsafe fn release(node: NonNull<Node>) {
        // SAFETY: allocated with this layout, and the caller gives it up.
        unsafe { dealloc(node.as_ptr().cast(), Layout::new::<Node>()) }
    }

    /// The children that are wholly free.
    #[inline]
    pub(super) fn whole_children(&self, height: u32) -> u64 {
        at_least(&self.orders, whole(height))
    }

    /// The byte that says of the whole node what the bytes of its children say
    /// of them.
    #[inline]
    pub(super) fn summary(&self, height: u32) -> OrderByte {
        let most = largest(&self.orders);
        if most < whole(height) {
            return most;
        }
        child_lg2(height) as OrderByte + order_byte(self.whole_children(height))
    }

    /// [`summary`](Self::summary), where it was `before` until one child's byte
    /// went from `was` to `is`.
    #[inline]
    pub(super) fn summary_after(
        &self,
        height: u32,
        before: OrderByte,
        was: OrderByte,
        is: OrderByte,
    ) -> OrderByte {
        if is < whole(height) {
            if is > was {
                // Runs of whole children are as they were.
                return before.max(is);
            }
            if was < before && was < whole(height) {
                return before;
            }
            if before == whole(height + 1) {
                // All were whole. One half still is.
                return before - 1;
            }
        }
        self.summary(height)
    }

    /// The free pages of child `at` of a node of height 1.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        // SAFETY: at height 1, where alone this is called, every child was
        // written as pages.
        unsafe { self.children[at].pages }
    }

    /// Replaces the free pages of child `at` of a node of height 1.
    #[inline]
    pub(super) fn set_word(&mut self, at: usize, pages: u64) {
        self.children[at].pages = pages;
        self.orders[at] = order_byte(pages);
    }

    /// Frees or takes the pages `low..high` of a node of height 1, which lie in
    /// more than one child.
    #[inline(never)]
    pub(super) fn flip(&mut self, low: u32, high: u32, free: bool) {
        let (first, last) = ((low >> 6) as usize & 63, ((high - 1) >> 6) as usize & 63);
        let mut flip_part = |at: usize, mask: u64| {
            let pages = self.word(at);
            debug_assert_eq!(pages & mask, if free { 0 } else { mask });
            self.set_word(at, pages ^ mask);
        };
        flip_part(first, !0 << (low & 63));
        flip_part(last, !0 >> (high.wrapping_neg() & 63));
        let (pages, byte) = if free { (!0, whole(1)) } else { (0, 0) };
        for at in first + 1..last {
            debug_assert_eq!(self.word(at), !pages);
            self.children[at].pages = pages;
            self.orders[at] = byte;
        }
    }

    /// Child `at` of a node above height 1: null, or a node.
    #[inline]
    pub(super) fn child(&self, at: usize) -> *mut Node {
        // SAFETY: above height 1, where alone this is called, every child was
        // written as a pointer.
        unsafe { self.children[at].node }
    }

    /// Detaches child `at` of a node above height 1.
    pub(super) fn take_child(&mut self, at: usize) -> *mut Node {
        let child = self.child(at);
        self.children[at].node = core::ptr::null_mut();
        child
    }
}
