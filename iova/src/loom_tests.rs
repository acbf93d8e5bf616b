//! Models of the caches. Magazines hold 3 addresses here and refills take 2.
//! Beside each model stands one that breaks a rule, and which loom must catch.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use dmabench_platform::{
    Fences, Granule, Iova, SlotGuard, Slots, TimeNs,
    sync::{
        ShortMutex,
        atomic::{AtomicPtr, AtomicUsize, Ordering},
    },
};
use loom::{model::Builder, thread};

use crate::{
    AllocRequest, CachedSizes, IovaConfig, IovaDomain, IovaRange,
    cache::Wish,
    depot::Depot,
    magazine::Magazine,
    trim::{Deadline, Due},
};

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A domain of `pages` pages with single pages cached, and two slots.
fn domain(pages: u64, fences: Fences) -> Arc<IovaDomain> {
    let slots = Arc::new(Slots::new(2, fences).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0), Iova(pages * 4096 - 1))
        .cached(CachedSizes::UpToLg2Pages(0));
    Arc::new(IovaDomain::new(config, slots).unwrap())
}

fn enter(domain: &IovaDomain, slot: usize) -> SlotGuard<'_> {
    // SAFETY: each model gives a slot to one thread at a time, but for the one
    // that shows what happens otherwise.
    unsafe {
        domain
            .slots()
            .enter(Some(slot))
            .expect("a slot of one's own")
    }
}

fn alloc(domain: &IovaDomain, slot: &mut SlotGuard<'_>) -> IovaRange {
    domain
        .alloc(slot, 1, &AllocRequest::default())
        .expect("a free page")
}

fn all_is_accounted_for(domain: &IovaDomain) {
    let stats = domain.stats();
    assert_eq!(stats.live_bytes, 0, "pages lost or counted twice");
    domain.drain();
    assert_eq!(
        domain.stats().free_bytes,
        stats.space_bytes,
        "a page was lost"
    );
}

/// An owner swaps and refills its magazines while another thread empties them.
fn swap_against_drain(fences: Fences) {
    let domain = domain(64, fences);
    let owner = {
        let domain = domain.clone();
        thread::spawn(move || {
            let ranges: Vec<IovaRange> = {
                let mut slot = enter(&domain, 0);
                (0..2).map(|_| alloc(&domain, &mut slot)).collect()
            };
            let mut slot = enter(&domain, 0);
            for range in ranges {
                domain.free(&mut slot, range).unwrap();
            }
        })
    };
    domain.drain();
    owner.join().unwrap();
    all_is_accounted_for(&domain);
}

#[test]
fn loom_magazines_are_not_drained_under_their_owner() {
    check(|| swap_against_drain(Fences::Symmetric));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_sees_a_drain_without_the_light_fence() {
    check(|| swap_against_drain(Fences::LightMissing));
}

fn full_magazine() -> Magazine {
    let mut pair = crate::magazine::Pair::default();
    pair.load(Magazine::allocate().unwrap());
    let mut address = 0;
    while pair.push(address) {
        address += 4096;
    }
    let [full, _] = pair.unload();
    full
}

/// One slot hands a full magazine on, another takes it.
#[test]
fn loom_depot_hands_a_magazine_on_with_its_content() {
    check(|| {
        let depot = Arc::new(ShortMutex::new(Depot::new(4)));
        let giver = {
            let depot = depot.clone();
            thread::spawn(move || depot.lock().put_full(full_magazine()))
        };
        let taken = depot.lock().take_full();
        if let Some(mut magazine) = taken {
            assert_eq!(magazine.pop(), Some(2 * 4096));
            assert_eq!(magazine.pop(), Some(4096));
        }
        giver.join().unwrap();
    });
}

/// The same without the depot's lock.
#[test]
#[should_panic(expected = "Causality violation")]
fn loom_sees_a_magazine_handed_on_without_a_lock() {
    check(|| {
        let shelf = Arc::new(AtomicPtr::new(core::ptr::null_mut()));
        let giver = {
            let shelf = shelf.clone();
            thread::spawn(move || {
                let magazine = Box::into_raw(Box::new(full_magazine()));
                shelf.store(magazine, Ordering::Relaxed);
            })
        };
        let taken = shelf.load(Ordering::Relaxed);
        if !taken.is_null() {
            // SAFETY: a box that the giver put there and nobody else takes.
            let mut magazine: Box<Magazine> = unsafe { Box::from_raw(taken) };
            magazine.pop();
        }
        giver.join().unwrap();
    });
}

/// Two pages, of which another slot never has more than one in use: whatever
/// it has cached, the other page must be found.
fn the_last_page(find: impl Fn(&IovaDomain, &mut SlotGuard<'_>) -> bool) {
    let domain = domain(2, Fences::Symmetric);
    let other = {
        let domain = domain.clone();
        thread::spawn(move || {
            let mut slot = enter(&domain, 0);
            let range = alloc(&domain, &mut slot);
            domain.free(&mut slot, range).unwrap();
        })
    };
    let found = find(&domain, &mut enter(&domain, 1));
    other.join().unwrap();
    assert!(found, "refused with a page in a cache");
}

#[test]
fn loom_nothing_is_refused_that_lies_in_a_cache() {
    check(|| {
        the_last_page(|domain, slot| {
            let range = domain.alloc(slot, 1, &AllocRequest::default());
            range.is_ok_and(|range| domain.free(slot, range).is_ok())
        });
    });
}

#[test]
#[should_panic(expected = "refused with a page in a cache")]
fn loom_sees_a_refusal_without_a_drain() {
    check(|| {
        the_last_page(|domain, slot| {
            let wish = Wish {
                size: 1,
                align_lg2: 0,
                class: Some(0),
                last: 1,
            };
            let found = domain.take_from_caches(slot, 0, wish);
            let Ok(Some(page)) = found else {
                return false;
            };
            domain.free(slot, domain.key.token(page * 4096, 1)).is_ok()
        });
    });
}

/// A thread ends and its slot, with what is cached there, goes to the next.
fn slot_handed_back(wait_for_the_first: bool) {
    let domain = domain(64, Fences::Symmetric);
    let done = Arc::new(AtomicUsize::new(0));
    let user = |domain: Arc<IovaDomain>, done: Arc<AtomicUsize>| {
        move || {
            {
                let mut slot = enter(&domain, 0);
                let range = alloc(&domain, &mut slot);
                domain.free(&mut slot, range).unwrap();
            }
            done.fetch_add(1, Ordering::Release);
        }
    };
    let first = thread::spawn(user(domain.clone(), done.clone()));
    if !wait_for_the_first || done.load(Ordering::Acquire) == 1 {
        user(domain.clone(), done.clone())();
    } else {
        domain.drain();
    }
    first.join().unwrap();
    all_is_accounted_for(&domain);
}

#[test]
fn loom_a_slot_handed_back_keeps_its_magazines_whole() {
    check(|| slot_handed_back(true));
}

/// Two threads on one slot: the one thing a source of slots must not do.
#[test]
#[should_panic]
fn loom_sees_two_threads_on_one_slot() {
    check(|| slot_handed_back(false));
}

/// A magazine comes into the depot while a trim looks into it. `end` is how the
/// trim says that nothing is left.
fn put_against_trim(end: fn(&Deadline, Due)) {
    let shared = Arc::new((Deadline::new(), ShortMutex::new(0)));
    // One was there and has been taken out again: the deadline stands.
    shared.0.expect();
    let giver = {
        let shared = shared.clone();
        thread::spawn(move || {
            *shared.1.lock() += 1;
            shared.0.expect();
        })
    };
    if let Some(due) = shared.0.begin(TimeNs(0)) {
        let left = *shared.1.lock();
        if left == 0 {
            end(&shared.0, due);
        } else {
            shared.0.end(due, Some(TimeNs(100)));
        }
    }
    giver.join().unwrap();
    assert!(shared.0.get().is_some(), "a magazine that nobody will trim");
}

#[test]
fn loom_what_comes_during_a_trim_has_a_deadline() {
    check(|| put_against_trim(|deadline, due| deadline.end(due, None)));
}

#[test]
#[should_panic(expected = "a magazine that nobody will trim")]
fn loom_sees_a_trim_that_forgets_what_came_meanwhile() {
    check(|| put_against_trim(|deadline, _| deadline.forget()));
}
