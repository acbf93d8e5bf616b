//! Addresses first, pieces later: what is linked when, and what a failure takes
//! back.

mod common;

use common::*;
use dmabench_dma::*;
use dmabench_platform::*;
use proptest::prelude::*;

fn begin(domain: &TestDomain, first: u64, len_bytes: u64) -> Linking {
    domain
        .link_begin(
            &Device::new(),
            PhysAddr(first),
            len_bytes,
            Direction::FromDevice,
        )
        .unwrap()
        .expect("it translates")
}

fn finish(domain: TestDomain) {
    let stats = domain.stats();
    assert_eq!((stats.live_mappings, stats.leaked_mappings), (0, 0));
    domain.drain().unwrap();
    assert_eq!(domain.stats().iova_pages_held, 0);
    domain.close().unwrap();
}

#[test]
fn pieces_become_one_mapping() {
    for mode in [Mode::Strict, Mode::lazy()] {
        let domain = domain(mode);
        let mut linking = begin(&domain, 0x10_0e00, 0x3300);
        assert_eq!(linking.addr().0 & 0xfff, 0xe00);
        let pieces = [
            segment(0x10_0e00, 0x200),
            segment(0x55_5000, 0x2000),
            segment(0x20_0000, 0x1000),
            segment(0x9000, 0x100),
        ];
        let mut at = linking.addr();
        for piece in pieces {
            assert_eq!(domain.translate(at), None, "not before it is linked");
            assert_eq!(domain.link(&mut linking, piece), Ok(at));
            assert_eq!(domain.translate(at).unwrap().paddr, piece.phys);
            at.0 += piece.len_bytes;
        }
        let addr = linking.addr();
        let mapping = domain.link_done(linking).unwrap();
        assert_eq!((mapping.addr(), mapping.len_bytes()), (addr, 0x3300));
        let pages = touch_all(&domain, &mapping);
        assert_eq!(pages.len(), 5);
        domain.unmap(mapping).unwrap();
        if domain.config().mode == Mode::Strict {
            assert_eq!(stale(&domain, &pages), 0, "S1");
        }
        finish(domain);
    }
}

#[test]
fn there_is_nothing_to_reserve_in_passthrough() {
    let domain = domain(Mode::Passthrough);
    let linking = domain.link_begin(&Device::new(), PhysAddr(0), 1, Direction::ToDevice);
    assert!(linking.unwrap().is_none());
    finish(domain);
}

#[test]
fn bad_inputs_of_pieces_leave_what_was_linked() {
    let domain = domain(Mode::Strict);
    let mut linking = begin(&domain, 0x1200, 0x2e00);
    let misplaced = |phys, offset| LinkError::Misplaced {
        phys: PhysAddr(phys),
        offset,
    };
    for (bad, expected) in [
        (segment(0x1200, 0), LinkError::EmptyPiece),
        (
            segment(0x1200, 0x2e01),
            LinkError::TooLong { left_bytes: 0x2e00 },
        ),
        (segment(0x1300, 0x100), misplaced(0x1300, 0x200)),
    ] {
        assert_eq!(domain.link(&mut linking, bad), Err(expected));
    }
    domain.link(&mut linking, segment(0x1200, 0xe00)).unwrap();
    let beyond = segment((1 << 48) - 0x1000, 0x2000);
    for (bad, expected) in [
        (segment(0x5200, 0x1000), misplaced(0x5200, 0)),
        (
            beyond,
            LinkError::Tables(dmabench_pgtable::MapError::PhysRange {
                paddr: beyond.phys,
                len_bytes: 0x2000,
            }),
        ),
    ] {
        let error = domain.link(&mut linking, bad).unwrap_err();
        assert_eq!(
            std::mem::discriminant(&error),
            std::mem::discriminant(&expected),
            "{error}"
        );
    }
    // A piece that ends inside a granule is the last.
    domain.link(&mut linking, segment(0x8000, 0x800)).unwrap();
    assert_eq!(
        domain.link(&mut linking, segment(0x8800, 0x800)),
        Err(misplaced(0x8800, 0x800))
    );
    assert_eq!(linking.linked_bytes(), 0x1600);
    let error = domain.link_done(linking).unwrap_err();
    assert_eq!(
        error.error,
        LinkError::Incomplete {
            linked_bytes: 0x1600,
            len_bytes: 0x2e00
        }
    );
    domain.cancel(error.linking).unwrap();
    finish(domain);

    let strict = self::domain(Mode::Strict);
    for (len, expected) in [
        (0, MapError::EmptySegment { index: 0 }),
        (
            1 << 63,
            MapError::SegmentTooLong {
                index: 0,
                max_bytes: 1 << 62,
            },
        ),
    ] {
        let refused = strict.link_begin(&Device::new(), PhysAddr(0), len, Direction::ToDevice);
        assert_eq!(refused.unwrap_err(), expected);
    }
    finish(strict);
}

#[test]
fn bad_input_49_addresses_of_another_domain() {
    let (own, other) = (domain(Mode::Strict), domain(Mode::Strict));
    let mut linking = begin(&own, 0, 0x1000);
    let whole = segment(0, 0x1000);
    assert_eq!(other.link(&mut linking, whole), Err(LinkError::OtherDomain));
    assert_eq!(other.unlink(&mut linking), Err(LinkError::OtherDomain));
    let error = other.cancel(linking).unwrap_err();
    assert_eq!(error.error, LinkError::OtherDomain);
    let error = other.link_done(error.linking).unwrap_err();
    own.cancel(error.linking).unwrap();
    finish(own);
    finish(other);
}

#[test]
fn a_piece_that_fails_takes_everything_back() {
    for mode in [Mode::Strict, Mode::lazy()] {
        let domain = domain(mode);
        let linking = begin(&domain, 0, 0x3000);
        let first = linking.addr();
        let pieces = [
            segment(0x1000, 0x1000),
            segment(0x2000, 0x1000),
            segment(0x3800, 1),
        ];
        let seen = std::cell::Cell::new(0);
        let error = domain
            .link_all(
                linking,
                pieces.into_iter().inspect(|_| {
                    // The device uses what is linked already.
                    for page in 0..seen.get() {
                        assert!(
                            domain
                                .backend()
                                .touch(Iova(first.0 + page * PAGE))
                                .is_some()
                        );
                    }
                    seen.set(seen.get() + 1);
                }),
            )
            .unwrap_err();
        assert!(matches!(error.error, LinkError::Misplaced { .. }));
        assert!(error.left.is_none());
        for page in 0..3 {
            let stale = domain.backend().touch(Iova(first.0 + page * PAGE));
            assert_eq!(stale, None, "S1, in lazy mode too");
        }
        assert_eq!(domain.stats().iova_pages_held, 0);
        finish(domain);
    }
}

#[test]
fn a11_what_is_not_invalidated_is_not_given_back() {
    for fault in [Fault::Refuse, Fault::RefuseSync, Fault::Late] {
        let domain = domain(Mode::Strict);
        let mut linking = begin(&domain, 0, 0x2000);
        domain.link(&mut linking, segment(0x5000, 0x1000)).unwrap();
        let at = linking.addr();
        assert!(domain.backend().touch(at).is_some());
        domain.backend().inject(fault);
        assert!(matches!(
            domain.unlink(&mut linking),
            Err(LinkError::NotInvalidated(_))
        ));
        // Nothing else works until that has.
        assert!(matches!(
            domain.link(&mut linking, segment(0x6000, 0x1000)),
            Err(LinkError::NotInvalidated(_))
        ));
        domain.backend().inject(fault);
        let error = domain.cancel(linking).unwrap_err();
        assert!(matches!(error.error, LinkError::NotInvalidated(_)));
        assert_eq!(domain.stats().iova_pages_held, 2);
        let error = domain.link_done(error.linking).unwrap_err();
        assert!(matches!(error.error, LinkError::NotInvalidated(_)));
        domain.cancel(error.linking).unwrap();
        assert_eq!(domain.backend().touch(at), None);
        finish(domain);
    }
}

#[test]
fn addresses_are_used_again_after_an_unlink() {
    let domain = domain(Mode::lazy());
    let mut linking = begin(&domain, 0, 0x2000);
    for round in 1..50_u64 {
        let memory = segment(round * 0x10_0000, 0x2000);
        let at = domain.link(&mut linking, memory).unwrap();
        let reached = domain.backend().touch(Iova(at.0 + 0x1004));
        assert_eq!(reached, Some(PhysAddr(memory.phys.0 + 0x1004)), "A1");
        domain.unlink(&mut linking).unwrap();
        assert_eq!(linking.linked_bytes(), 0);
    }
    domain.cancel(linking).unwrap();
    finish(domain);
}

#[test]
fn a_dropped_reservation_is_a_leak() {
    let domain = domain(Mode::Strict);
    drop(begin(&domain, 0, 0x1000));
    let stats = domain.stats();
    assert_eq!((stats.live_mappings, stats.leaked_mappings), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However a buffer is cut at granules, the mapping is the same as in one
    /// piece.
    #[test]
    fn any_cut_gives_the_same_mapping(
        offset in 0_u64..PAGE,
        len in 1_u64..20 * PAGE,
        cuts in prop::collection::btree_set(1_u64..20, 0..6),
    ) {
        let domain = domain(Mode::Strict);
        let first = 0x40_0000 + offset;
        let linking = begin(&domain, first, len);
        let mut pieces = vec![];
        let mut at = first;
        for cut in cuts {
            let end = (0x40_0000 + cut * PAGE).min(first + len);
            if end > at {
                pieces.push(segment(at, end - at));
                at = end;
            }
        }
        if at < first + len {
            pieces.push(segment(at, first + len - at));
        }
        let mapping = domain.link_all(linking, pieces).unwrap();
        for page in pages(&mapping) {
            let expected = 0x40_0000 + (page.0 - mapping.mapped_range().unwrap().0.0);
            prop_assert_eq!(domain.translate(page).unwrap().paddr.0, expected);
        }
        prop_assert_eq!(domain.translate(mapping.addr()).unwrap().paddr.0, first);
        domain.unmap(mapping).unwrap();
        finish(domain);
    }
}
