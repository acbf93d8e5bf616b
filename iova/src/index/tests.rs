use alloc::vec::Vec;

use super::*;
use crate::config::Policy;

/// Every page by itself.
struct Model {
    free: Vec<bool>,
}

impl Model {
    fn some_place(&self, place: &Place) -> Option<u64> {
        let end = (self.free.len() as u64).min(place.last + 1);
        let mut run = 0;
        for page in (0..end).rev() {
            run = if self.free[page as usize] { run + 1 } else { 0 };
            if run >= place.size && page % (1 << place.align_lg2) == 0 {
                return Some(page);
            }
        }
        None
    }

    fn largest_free_run(&self) -> u64 {
        self.free
            .split(|&free| !free)
            .map(|run| run.len())
            .max()
            .unwrap() as u64
    }

    fn set(&mut self, start: u64, size: u64, free: bool) {
        for page in start..start + size {
            assert_eq!(self.free[page as usize], !free);
            self.free[page as usize] = free;
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// No free block lies above the leaf that is said to be the last for its order.
fn assert_tops(index: &Index) {
    for order in 0..LEAF_LG2 {
        let above = (index.tops.get(order) + 1) << LEAF_LG2;
        assert_eq!(index.first_block(order, above, index.end()), None);
        assert!(order == 0 || index.tops.get(order) <= index.tops.get(order - 1));
    }
}

#[test]
#[should_panic]
fn a_top_that_is_too_low_is_seen() {
    let mut index = Index::new(0, (1 << 18) - 1).unwrap();
    index.tops = Tops::new(3);
    assert_tops(&index);
}

/// Fills and empties a small space over and over; every answer, refusals
/// included, is checked page by page.
fn churn(first: u64, last: u64, policy: Policy, seed: u64, steps: u32) {
    let mut index = Index::new(first, last).unwrap();
    let mut model = Model {
        free: (0..=last).map(|page| page >= first).collect(),
    };
    let mut live: Vec<(u64, u64)> = Vec::new();
    let mut random = Random(seed);
    let space = last - first + 1;
    let mut refusals = 0;
    for step in 0..steps {
        let filling = step / 100 % 2 == 0;
        if random.below(10) < if filling { 7 } else { 3 } || live.is_empty() {
            let size = match random.below(6) {
                0 => 1 + random.below(space),
                1 => 1 << random.below(14),
                2 => 64 << random.below(3),
                3 => 1 + random.below(300),
                _ => 1 << random.below(6),
            };
            let natural = search::ceil_lg2(size);
            let align_lg2 = match random.below(4) {
                0 => 0,
                1 => random.below(10) as u32,
                _ => natural,
            };
            let limit = match random.below(3) {
                0 => first + random.below(space),
                _ => last,
            };
            let place = Place {
                size,
                align_lg2,
                last: limit,
                policy,
            };
            match index.alloc(place).unwrap() {
                Some(start) => {
                    assert!(start % (1 << align_lg2) == 0 && start + size - 1 <= limit);
                    model.set(start, size, false);
                    live.push((start, size));
                }
                None => {
                    refusals += 1;
                    assert_eq!(model.some_place(&place), None, "{place:?}");
                }
            }
        } else {
            let (start, size) = live.swap_remove(random.below(live.len() as u64) as usize);
            index.free(start, size);
            model.set(start, size, true);
        }
        if step % 16 == 0 {
            let free = model.free.iter().filter(|&&free| free).count() as u64;
            assert_eq!(index.free_pages(), free);
            assert_eq!(index.largest_free_run(), model.largest_free_run());
            index.settle();
            assert_tops(&index);
        }
    }
    assert!(refusals > 0, "the space was never full");
    for (start, size) in live.drain(..) {
        index.free(start, size);
    }
    assert_eq!(index.free_pages(), space);
    assert!(index.is_free(first, last));
}

#[test]
fn a3_every_answer_is_right_in_spaces_that_fill_up() {
    let policies = [Policy::HighestFirst, Policy::LowestFirst, Policy::BestFit];
    for (i, &(first, last)) in [
        (0, 63),
        (1, 70),
        (0, 4095),
        (3, 4100),
        (4000, 4200),
        (100, 9000),
    ]
    .iter()
    .enumerate()
    {
        for (j, &policy) in policies.iter().enumerate() {
            churn(first, last, policy, (i * 3 + j) as u64 + 1, 2000);
        }
    }
}

#[test]
fn three_heights_fill_up() {
    churn(5, (1 << 18) + 77, Policy::HighestFirst, 99, 150);
}

#[test]
fn large_ranges_come_and_go_across_nodes() {
    let last = (1 << 40) - 1;
    let mut index = Index::new(1, last).unwrap();
    let nodes = index.nodes;
    let mut live = Vec::new();
    let mut random = Random(5);
    for _ in 0..400 {
        let bound = 1 << random.below(36);
        let size = 1 + random.below(bound);
        let align_lg2 = if random.below(2) == 0 {
            0
        } else {
            search::ceil_lg2(size)
        };
        let place = Place {
            size,
            align_lg2,
            last,
            policy: Policy::HighestFirst,
        };
        if let Some(start) = index.alloc(place).unwrap() {
            live.push((start, size));
        }
        if live.len() > 40 {
            let (start, size) = live.swap_remove(random.below(40) as usize);
            index.free(start, size);
        }
    }
    for (start, size) in live {
        index.free(start, size);
    }
    assert_eq!(index.free_pages(), last);
    // The path may keep a few, until it turns away.
    index.leave_path();
    assert_eq!(index.nodes, nodes);
}

#[test]
fn a_space_that_empties_gives_its_nodes_back() {
    let mut index = Index::new(1, (1 << 36) - 1).unwrap();
    let nodes = index.nodes;
    let place = Place {
        size: 1,
        align_lg2: 0,
        last: (1 << 36) - 1,
        policy: Policy::HighestFirst,
    };
    let pages: Vec<u64> = (0..20_000)
        .map(|_| index.alloc(place).unwrap().unwrap())
        .collect();
    assert!(index.nodes > nodes + 3);
    for page in pages {
        index.free(page, 1);
    }
    assert!(index.nodes <= nodes + 5, "only the path may be left");
    assert_eq!(index.largest_free_run(), (1 << 36) - 1);
}

#[test]
fn ranges_that_come_and_go_alone_leave_no_nodes_behind() {
    let mut index = Index::new(1, (1 << 36) - 1).unwrap();
    let nodes = index.nodes;
    for megapages in 1..200 {
        let place = Place {
            size: 1,
            align_lg2: 0,
            last: (megapages << 20) - 1,
            policy: Policy::HighestFirst,
        };
        let page = index.alloc(place).unwrap().unwrap();
        index.free(page, 1);
        assert!(index.nodes <= nodes + 4, "only the path may be left");
    }
    index.leave_path();
    assert_eq!(index.nodes, nodes);
}

#[test]
fn highest_and_lowest_first_are_what_they_say() {
    for (policy, expected) in [(Policy::HighestFirst, 9999), (Policy::LowestFirst, 10)] {
        let mut index = Index::new(10, 9999).unwrap();
        let place = Place {
            size: 1,
            align_lg2: 0,
            last: u64::MAX >> 12,
            policy,
        };
        assert_eq!(index.alloc(place), Ok(Some(expected)));
    }
}
