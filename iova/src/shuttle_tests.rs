//! Eight threads at random: more interleavings than loom can visit, none of
//! them for certain.

use alloc::{sync::Arc, vec::Vec};

use dmabench_platform::{Fences, Granule, Iova, Slots, TimeNs};
use shuttle::{sync::Mutex, thread};

use crate::{AllocError, AllocRequest, CachedSizes, IovaConfig, IovaDomain, IovaRange};

const THREADS: usize = 8;
const PAGES: u64 = 40;

/// Threads allocate, free their own and each other's, drain and trim, in a
/// space that is full most of the time.
fn eight_threads() {
    // Fewer slots than threads: two share the fallback.
    let slots = Arc::new(Slots::new(THREADS - 2, Fences::Symmetric).unwrap());
    let config = IovaConfig::new(Granule::K4, Iova(0), Iova(PAGES * 4096 - 1))
        .cached(CachedSizes::UpToLg2Pages(1));
    let domain = Arc::new(IovaDomain::new(config, slots).unwrap());
    let shared: Arc<Mutex<Vec<IovaRange>>> = Arc::default();
    let owned = Arc::new(Mutex::new([false; PAGES as usize]));
    let own = |range: &IovaRange, owned: &Mutex<[bool; PAGES as usize]>, taken: bool| {
        let first = (range.iova().0 / 4096) as usize;
        let mut owned = owned.lock().unwrap();
        for page in &mut owned[first..first + range.size_pages() as usize] {
            assert_eq!(*page, !taken, "two owners of one page");
            *page = taken;
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (domain, shared, owned) = (domain.clone(), shared.clone(), owned.clone());
            thread::spawn(move || {
                for round in 0..4 {
                    {
                        // SAFETY: each number below the count of slots belongs to
                        // one thread; the others get the fallback.
                        let entered = unsafe { domain.slots().enter(Some(number)) };
                        let mut slot = entered.unwrap();
                        for size in [1, 2, 3] {
                            match domain.alloc(&mut slot, size, &AllocRequest::default()) {
                                Ok(range) => {
                                    own(&range, &owned, true);
                                    shared.lock().unwrap().push(range);
                                }
                                Err(error) => assert_eq!(error, AllocError::NoSpace),
                            }
                        }
                        for _ in 0..2 {
                            let range = shared.lock().unwrap().pop();
                            if let Some(range) = range {
                                own(&range, &owned, false);
                                domain.free(&mut slot, range).unwrap();
                            }
                        }
                    }
                    match (number + round) % THREADS {
                        0 => domain.drain(),
                        1 => domain.trim(TimeNs(round as u64 * 1_000_000_000)),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    {
        let mut slot = domain.slots().enter_fallback();
        for range in shared.lock().unwrap().drain(..) {
            domain.free(&mut slot, range).unwrap();
        }
    }
    assert_eq!(domain.stats().live_bytes, 0);
    domain.drain();
    assert_eq!(domain.stats().free_bytes, PAGES * 4096);
}

#[test]
fn shuttle_a3_eight_threads_never_share_a_page() {
    shuttle::check_random(eight_threads, 500);
}

#[test]
fn shuttle_a3_eight_threads_with_few_but_odd_switches() {
    shuttle::check_pct(eight_threads, 500, 3);
}
