//! Bad inputs 36 to 48 of the list in docs/, and the defects of other
//! allocators: each answers with a typed error and leaves the domain as it was.

use std::sync::Arc;

use dmabench_iova::*;
use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs};

const PAGE: u64 = 4096;

fn slots() -> Arc<Slots> {
    Arc::new(Slots::new(2, Fences::Symmetric).unwrap())
}

/// A domain over pages `first..=last`.
fn domain(first: u64, last: u64) -> IovaDomain {
    let config = IovaConfig::new(
        Granule::K4,
        Iova(first * PAGE),
        Iova(last * PAGE + PAGE - 1),
    );
    IovaDomain::new(config, slots()).unwrap()
}

fn below(page: u64) -> AllocRequest {
    AllocRequest::below(Iova(page * PAGE + PAGE - 1))
}

/// Runs `f` on a fresh guard and checks that the figures did not change.
fn unchanged<R>(
    domain: &IovaDomain,
    f: impl FnOnce(&mut dmabench_platform::SlotGuard<'_>) -> R,
) -> R {
    let before = domain.stats();
    let result = f(&mut domain.slots().enter_fallback());
    let after = domain.stats();
    assert_eq!(before.live_bytes, after.live_bytes);
    assert_eq!(before.reserved_bytes, after.reserved_bytes);
    assert_eq!(
        before.cached_bytes + before.free_bytes,
        after.cached_bytes + after.free_bytes
    );
    result
}

#[test]
fn bad_input_36_size_zero() {
    let d = domain(1, 1000);
    let error = unchanged(&d, |s| d.alloc(s, 0, &AllocRequest::default()).unwrap_err());
    assert_eq!(error, AllocError::ZeroSize);
}

#[test]
fn bad_input_37_size_beyond_the_space_and_near_2_64() {
    let d = domain(1, 1000);
    for size in [1001, 1 << 40, 1 << 52, 1 << 63, u64::MAX - 1, u64::MAX] {
        for align in [Align::Natural, Align::None, Align::Lg2Pages(3)] {
            let req = AllocRequest {
                limit: Iova(u64::MAX),
                align,
            };
            let error = unchanged(&d, |s| d.alloc(s, size, &req).unwrap_err());
            assert_eq!(error, AllocError::NoSpace, "{size} {align:?}");
        }
    }
}

/// A size whose double wraps to that of a cached class, with that class filled.
#[test]
fn bad_input_37_size_beyond_2_63_is_not_taken_for_a_small_one() {
    let d = domain(1, 100_000);
    let mut s = d.slots().enter_fallback();
    for small in [1, 2, 4, 64] {
        let range = d.alloc(&mut s, small, &AllocRequest::default()).unwrap();
        d.free(&mut s, range).unwrap();
        for size in [(1 << 63) + small, (1 << 63) + 1, (1 << 52) + small] {
            let got = d.alloc(&mut s, size, &AllocRequest::default());
            assert_eq!(got.unwrap_err(), AllocError::NoSpace, "{size:#x}");
        }
    }
}

#[test]
fn alignment_beyond_every_address_is_no_space() {
    let d = domain(1, 1000);
    for n in [10, 51, 52, 63, 64, 255] {
        let req = AllocRequest {
            limit: Iova(u64::MAX),
            align: Align::Lg2Pages(n),
        };
        let error = unchanged(&d, |s| d.alloc(s, 1, &req).unwrap_err());
        assert_eq!(error, AllocError::NoSpace, "{n}");
    }
}

#[test]
fn bad_input_38_limit_below_start() {
    let d = domain(16, 1000);
    for limit in [0, 1, 15 * PAGE + PAGE - 1, 16 * PAGE, 16 * PAGE + PAGE - 2] {
        let error = unchanged(&d, |s| {
            d.alloc(s, 1, &AllocRequest::below(Iova(limit)))
                .unwrap_err()
        });
        assert_eq!(error, AllocError::LimitBelowStart, "{limit:#x}");
    }
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 1, &below(16)).unwrap();
    assert_eq!(range.iova(), Iova(16 * PAGE));
    d.free(&mut s, range).unwrap();
}

/// Linux 5016bdb796b3: the second allocation returned {-2, -1}.
#[test]
fn bad_input_39_underflow_below_the_start() {
    let d = domain(1, 1000);
    d.reserve(Iova(0), Iova(PAGE - 1)).unwrap();
    let mut s = d.slots().enter_fallback();
    let first = d.alloc(&mut s, 2, &below(3)).unwrap();
    assert_eq!(first.iova(), Iova(2 * PAGE));
    assert_eq!(
        d.alloc(&mut s, 2, &below(3)).unwrap_err(),
        AllocError::NoSpace
    );
    d.free(&mut s, first).unwrap();
}

#[test]
fn bad_input_40_free_of_an_unknown_address() {
    let d = domain(1, 1000);
    for iova in [
        0,
        PAGE,
        5 * PAGE,
        5 * PAGE + 1,
        1001 * PAGE,
        u64::MAX,
        !(PAGE - 1),
    ] {
        let error = unchanged(&d, |s| d.free_raw(s, Iova(iova), 1).unwrap_err());
        assert_eq!(error, RawError::NotExported, "{iova:#x}");
    }
}

#[test]
fn bad_input_41_free_with_another_size() {
    let d = domain(1, 1000);
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 4, &AllocRequest::default()).unwrap();
    let (iova, size) = d.into_raw(range).unwrap();
    drop(s);
    for wrong in [0, 1, 3, 5, 8, u64::MAX] {
        let error = unchanged(&d, |s| d.free_raw(s, iova, wrong).unwrap_err());
        assert_eq!(error, RawError::WrongSize { exported_pages: 4 });
    }
    // Nor with its inside.
    let inside = Iova(iova.0 + PAGE);
    let error = unchanged(&d, |s| d.free_raw(s, inside, 3).unwrap_err());
    assert_eq!(error, RawError::NotExported);
    d.free_raw(&mut d.slots().enter_fallback(), iova, size)
        .unwrap();
    assert_eq!(d.stats().live_bytes, 0);
}

#[test]
fn bad_input_42_double_free() {
    let d = domain(1, 1000);
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 4, &AllocRequest::default()).unwrap();
    let (iova, size) = d.into_raw(range).unwrap();
    d.free_raw(&mut s, iova, size).unwrap();
    drop(s);
    let error = unchanged(&d, |s| d.free_raw(s, iova, size).unwrap_err());
    assert_eq!(error, RawError::NotExported);
    // What it could have been: two owners of one address.
    let mut s = d.slots().enter_fallback();
    let one = d.alloc(&mut s, 4, &AllocRequest::default()).unwrap();
    let two = d.alloc(&mut s, 4, &AllocRequest::default()).unwrap();
    assert_ne!(one.iova(), two.iova());
    d.free(&mut s, one).unwrap();
    d.free(&mut s, two).unwrap();
}

#[test]
fn bad_input_43_reserve_inverted_or_outside() {
    let d = domain(16, 1000);
    let before = d.stats();
    assert_eq!(
        d.reserve(Iova(20 * PAGE), Iova(19 * PAGE)),
        Err(ReserveError::Inverted)
    );
    assert_eq!(
        d.reserve(Iova(u64::MAX), Iova(0)),
        Err(ReserveError::Inverted)
    );
    assert_eq!(d.stats(), before);
    // Outside the aperture nothing is ever handed out: nothing to do.
    assert_eq!(d.reserve(Iova(0), Iova(15 * PAGE)), Ok(()));
    assert_eq!(d.reserve(Iova(1001 * PAGE), Iova(u64::MAX)), Ok(()));
    assert_eq!(d.stats(), before);
}

#[test]
fn bad_input_44_reserve_over_a_live_range() {
    let d = domain(16, 1000);
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 2, &AllocRequest::default()).unwrap();
    drop(s);
    let before = d.stats();
    let (first, last) = (range.iova(), range.last());
    assert_eq!(d.reserve(first, last), Err(ReserveError::Busy));
    assert_eq!(d.reserve(Iova(last.0), last), Err(ReserveError::Busy));
    assert_eq!(
        d.reserve(Iova(16 * PAGE), Iova(u64::MAX)),
        Err(ReserveError::Busy)
    );
    assert_eq!(d.stats().live_bytes, before.live_bytes);
    assert_eq!(d.stats().reserved_bytes, 0);
    d.free(&mut d.slots().enter_fallback(), range).unwrap();
    // Cached is not live.
    d.reserve(first, last).unwrap();
    assert_eq!(
        d.reserve(Iova(16 * PAGE), Iova(u64::MAX)),
        Err(ReserveError::Overlap { first, last })
    );
    assert_eq!(d.stats().reserved_bytes, 2 * PAGE);
}

/// iommufd's `reserved_overflow`: no space, and no wrap.
#[test]
fn bad_input_45_reserve_nearly_everything() {
    let d = domain(0, 1 << 20);
    d.reserve(Iova(6), Iova(6 + (u64::MAX - 32767) - 1))
        .unwrap();
    let error = unchanged(&d, |s| d.alloc(s, 5, &AllocRequest::default()).unwrap_err());
    assert_eq!(error, AllocError::NoSpace);
    assert_eq!(d.stats().free_bytes, 0);
}

#[test]
fn bad_input_46_the_type_has_no_odd_granule() {
    for granule in Granule::ALL {
        let config = IovaConfig::new(granule, Iova(0), Iova(granule.bytes() * 100 - 1));
        let d = IovaDomain::new(config, slots()).unwrap();
        let mut s = d.slots().enter_fallback();
        let range = d.alloc(&mut s, 1, &AllocRequest::default()).unwrap();
        assert!(range.iova().is_aligned_lg2(granule.lg2()));
        assert_eq!(range.len_bytes(), granule.bytes());
        d.free(&mut s, range).unwrap();
    }
}

#[test]
fn bad_input_47_zero_pages_from_a_zero_length_is_refused() {
    // What a length of 0 becomes in pages.
    let pages = Granule::K4.pages_covering(0, 0).unwrap();
    let d = domain(1, 1000);
    let error = unchanged(&d, |s| {
        d.alloc(s, pages, &AllocRequest::default()).unwrap_err()
    });
    assert_eq!(error, AllocError::ZeroSize);
}

#[test]
fn bad_input_48_mask_below_every_free_address() {
    let d = domain(16, 1000);
    d.reserve(Iova(16 * PAGE), Iova(32 * PAGE - 1)).unwrap();
    let error = unchanged(&d, |s| d.alloc(s, 1, &below(31)).unwrap_err());
    assert_eq!(error, AllocError::NoSpace);
    let error = unchanged(&d, |s| d.alloc(s, 1, &below(15)).unwrap_err());
    assert_eq!(error, AllocError::LimitBelowStart);
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 1, &below(32)).unwrap();
    assert_eq!(range.iova(), Iova(32 * PAGE));
    d.free(&mut s, range).unwrap();
}

#[test]
fn apertures_that_cannot_be() {
    let new = |first, last| {
        IovaDomain::new(
            IovaConfig::new(Granule::K64, Iova(first), Iova(last)),
            slots(),
        )
        .map(|_| ())
        .unwrap_err()
    };
    assert_eq!(new(2, 1), ConfigError::Inverted);
    assert_eq!(new(0, 0xfffe), ConfigError::Empty);
    assert_eq!(new(1, 0x1_fffe), ConfigError::Empty);
    assert_eq!(new(u64::MAX, u64::MAX), ConfigError::Empty);
    assert_eq!(new(0, u64::MAX), ConfigError::TooLarge);
}

#[test]
fn the_last_page_of_64_bits_can_be_had() {
    let config = IovaConfig::new(Granule::K4, Iova(u64::MAX - 8 * PAGE + 1), Iova(u64::MAX));
    let d = IovaDomain::new(config, slots()).unwrap();
    let mut s = d.slots().enter_fallback();
    let range = d.alloc(&mut s, 8, &AllocRequest::default()).unwrap();
    assert_eq!(range.last(), Iova(u64::MAX));
    d.free(&mut s, range).unwrap();
}

#[test]
fn a_range_of_another_domain_comes_back() {
    let (a, b) = (domain(1, 1000), domain(1, 1000));
    let mut s = a.slots().enter_fallback();
    let range = a.alloc(&mut s, 3, &AllocRequest::default()).unwrap();
    let FreeError { range, .. } = unchanged(&b, |s| b.free(s, range).unwrap_err());
    let IntoRawError { range, reason, .. } = b.into_raw(range).unwrap_err();
    assert_eq!(reason, IntoRawReason::OtherDomain);
    a.free(&mut s, range).unwrap();
    drop(s);
    assert_eq!(a.stats().live_bytes, 0);
}

#[test]
fn a_guard_of_other_slots_is_refused() {
    let (a, b) = (domain(1, 1000), domain(1, 1000));
    let range = {
        let mut s = a.slots().enter_fallback();
        a.alloc(&mut s, 3, &AllocRequest::default()).unwrap()
    };
    let mut wrong = b.slots().enter_fallback();
    assert_eq!(
        a.alloc(&mut wrong, 1, &AllocRequest::default())
            .unwrap_err(),
        AllocError::OtherSlots
    );
    let range = a.free(&mut wrong, range).unwrap_err().range;
    let (iova, size) = a.into_raw(range).unwrap();
    assert_eq!(
        a.free_raw(&mut wrong, iova, size),
        Err(RawError::OtherSlots)
    );
    a.free_raw(&mut a.slots().enter_fallback(), iova, size)
        .unwrap();
}

/// Linux `iova_magazine_pop`: a cached address above the limit must stay there.
#[test]
fn cached_ranges_above_the_limit_are_not_handed_out() {
    let d = domain(1, 1 << 20);
    let mut s = d.slots().enter_fallback();
    let high = d.alloc(&mut s, 1, &AllocRequest::default()).unwrap();
    assert!(high.iova() > Iova(100 * PAGE));
    d.free(&mut s, high).unwrap();
    for limit in [1, 5, 99] {
        let low = d.alloc(&mut s, 1, &below(limit)).unwrap();
        assert!(low.last() <= below(limit).limit, "{low:?}");
        d.free(&mut s, low).unwrap();
    }
}

#[test]
fn trim_of_an_idle_domain_has_nothing_to_do() {
    let d = domain(1, 1000);
    assert_eq!(d.next_deadline(), None);
    d.trim(TimeNs(u64::MAX));
    assert_eq!(d.stats().free_bytes, 1000 * PAGE);
}
