//! What an SMMU may still remember: every translation that the tables held since
//! the last invalidation that was certain to remove it. Written from the
//! specification's promises (Arm IHI 0070, 4.4), not from either implementation.

use dmabench_flushq::TlbRange;
use dmabench_pgtable::{Prot, Translation};
use dmabench_platform::{Iova, PhysAddr};
use dmabench_smmu::format::EventKind;

/// What an access comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It reaches this address.
    Reached(PhysAddr),
    /// It is stopped and this is recorded.
    Stopped(EventKind),
}

/// As the tables say.
pub(crate) fn fresh(found: Option<Translation>, write: bool) -> Outcome {
    match found {
        None => Outcome::Stopped(EventKind::Translation),
        Some(found) => through(found.paddr, found.prot, write),
    }
}

fn through(phys: PhysAddr, prot: Prot, write: bool) -> Outcome {
    let wanted = if write { Prot::WRITE } else { Prot::READ };
    if prot.contains(wanted) {
        Outcome::Reached(phys)
    } else {
        Outcome::Stopped(EventKind::Permission)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A leaf that was unmapped.
    Leaf { phys: u64, prot: Prot, level: i8 },
    /// A table that was unlinked: a remembered pointer leads into it.
    Table,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    first: u64,
    last: u64,
    kind: Kind,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    extents: Vec<Extent>,
}

impl History {
    /// A leaf is about to be unmapped.
    pub(crate) fn leaf(&mut self, iova: Iova, len: u64, leaf: &Translation) {
        self.extents.push(Extent {
            first: iova.0,
            last: iova.0 + (len - 1),
            kind: Kind::Leaf {
                phys: leaf.paddr.0,
                prot: leaf.prot,
                level: leaf.level.get(),
            },
        });
    }

    /// A table was unlinked.
    pub(crate) fn table(&mut self, range: &TlbRange) {
        self.extents.push(Extent {
            first: range.iova.0,
            last: range.iova.0 + (range.len_bytes - 1),
            kind: Kind::Table,
        });
    }

    /// An invalidation has completed.
    pub(crate) fn invalidated(&mut self, range: &TlbRange) {
        let (first, last) = (range.iova.0, range.iova.0 + (range.len_bytes - 1));
        let tables: Vec<Extent> = (self.extents.iter())
            .filter(|e| matches!(e.kind, Kind::Table))
            .copied()
            .collect();
        let mut kept = Vec::new();
        for extent in self.extents.drain(..) {
            let gone = match extent.kind {
                Kind::Table => !range.leaf_only,
                Kind::Leaf { level, .. } => {
                    // Through a remembered table the old leaf may be read again.
                    let again = range.leaf_only
                        && (tables.iter())
                            .any(|t| t.first <= extent.last && extent.first <= t.last);
                    range.level.is_none_or(|only| only.get() == level) && !again
                }
            };
            if !gone || extent.last < first || last < extent.first {
                kept.push(extent);
                continue;
            }
            if extent.first < first {
                kept.push(Extent {
                    last: first - 1,
                    ..extent
                });
            }
            if last < extent.last {
                let kind = match extent.kind {
                    Kind::Leaf { phys, prot, level } => Kind::Leaf {
                        phys: phys + (last + 1 - extent.first),
                        prot,
                        level,
                    },
                    Kind::Table => Kind::Table,
                };
                kept.push(Extent {
                    first: last + 1,
                    last: extent.last,
                    kind,
                });
            }
        }
        self.extents = kept;
    }

    /// Everything was.
    pub(crate) fn invalidated_all(&mut self) {
        self.extents.clear();
    }

    /// What an access may come to because something is remembered; empty where
    /// nothing can be.
    pub(crate) fn stale(&self, iova: Iova, write: bool) -> Vec<Outcome> {
        let here = |e: &&Extent| e.first <= iova.0 && iova.0 <= e.last;
        (self.extents.iter().filter(here))
            .map(|extent| match extent.kind {
                Kind::Leaf { phys, prot, .. } => {
                    through(PhysAddr(phys + (iova.0 - extent.first)), prot, write)
                }
                Kind::Table => Outcome::Stopped(EventKind::Translation),
            })
            .collect()
    }
}
