//! What an SD/MMC host takes in one request, and how the block layer splits
//! what is larger.

use dmabench_dma::Segment;
use dmabench_platform::PhysAddr;

/// Limits of a host controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes of one request.
    pub request_bytes: u64,
    /// Entries of one scatter list.
    pub segments: usize,
    /// Bytes of one entry.
    pub segment_bytes: u64,
}

impl HostLimits {
    /// Linux 7.2, `sdhci.c`: `max_req_size` 512 KiB, `SDHCI_MAX_SEGS` 128,
    /// `max_seg_size` 64 KiB (the ADMA2 descriptor's length field; 65,535 with a
    /// quirk of some hosts).
    pub const SDHCI: HostLimits = HostLimits {
        request_bytes: 512 << 10,
        segments: 128,
        segment_bytes: 64 << 10,
    };

    /// Unit of a split: a request begins and ends at a sector.
    pub const SECTOR: u64 = 512;

    /// Splits a list into requests within the limits, as the block layer does: a
    /// request is filled until the next byte would exceed one of them, and its
    /// end rounded down to a sector. Entries longer than the host takes become
    /// several; entries that lie one behind the other are one, as far as the
    /// limit allows. `each` gets every request's list; the last one ends where
    /// the list ends, in the middle of a sector too.
    pub fn split(&self, list: impl IntoIterator<Item = Segment>, mut each: impl FnMut(&[Segment])) {
        let mut request: Vec<Segment> = Vec::with_capacity(self.segments);
        let mut bytes = 0;
        for piece in list {
            let (mut phys, mut left) = (piece.phys.0, piece.len_bytes);
            while left > 0 {
                let room = self.request_bytes - bytes;
                let joined = match request.last_mut() {
                    Some(last) if last.phys.0 + last.len_bytes == phys => {
                        let more = left.min(self.segment_bytes - last.len_bytes).min(room);
                        last.len_bytes += more;
                        more
                    }
                    _ => 0,
                };
                let taken = if joined > 0 {
                    joined
                } else if request.len() < self.segments && room > 0 {
                    let len_bytes = left.min(self.segment_bytes).min(room);
                    request.push(Segment {
                        phys: PhysAddr(phys),
                        len_bytes,
                    });
                    len_bytes
                } else {
                    let over = cut_to_sector(&mut request, &mut bytes);
                    each(&request);
                    request = over;
                    bytes = request.iter().map(|s| s.len_bytes).sum();
                    0
                };
                phys += taken;
                left -= taken;
                bytes += taken;
            }
        }
        if !request.is_empty() {
            each(&request);
        }
    }
}

/// Takes what is behind the last whole sector off a full request.
fn cut_to_sector(request: &mut Vec<Segment>, bytes: &mut u64) -> Vec<Segment> {
    let mut over = *bytes % HostLimits::SECTOR;
    if over == *bytes {
        // Less than a sector in so many entries: it goes as it is.
        return Vec::new();
    }
    *bytes -= over;
    let mut taken = Vec::new();
    while over > 0 {
        let Some(last) = request.last_mut() else {
            break;
        };
        let part = over.min(last.len_bytes);
        last.len_bytes -= part;
        over -= part;
        taken.push(Segment {
            phys: PhysAddr(last.phys.0 + last.len_bytes),
            len_bytes: part,
        });
        if last.len_bytes == 0 {
            request.pop();
        }
    }
    taken.reverse();
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(list: &[Segment]) -> Vec<Vec<Segment>> {
        let mut requests = Vec::new();
        HostLimits::SDHCI.split(list.iter().copied(), |r| requests.push(r.to_vec()));
        requests
    }

    fn segment(phys: u64, len_bytes: u64) -> Segment {
        Segment {
            phys: PhysAddr(phys),
            len_bytes,
        }
    }

    #[test]
    fn a_contiguous_mebibyte_becomes_two_requests_of_eight_entries() {
        let requests = split(&[segment(0x8000_0000, 1 << 20)]);
        assert_eq!(requests.len(), 2);
        for request in &requests {
            assert_eq!(request.len(), 8);
            assert!(request.iter().all(|s| s.len_bytes == 65536));
        }
        assert_eq!(requests[1][0].phys.0, 0x8008_0000);
    }

    #[test]
    fn scattered_pages_become_lists_of_128() {
        let pages: Vec<Segment> = (0..130).map(|i| segment(i << 16, 4096)).collect();
        let lengths: Vec<usize> = split(&pages).iter().map(Vec::len).collect();
        assert_eq!(lengths, [128, 2]);
    }

    #[test]
    fn a_split_falls_on_a_sector() {
        // 128 entries of 300 bytes are 75 sectors; one more begins a request.
        let odd: Vec<Segment> = (0..129).map(|i| segment(i << 16, 300)).collect();
        let requests = split(&odd);
        let bytes: Vec<u64> = (requests.iter())
            .map(|r| r.iter().map(|s| s.len_bytes).sum())
            .collect();
        assert_eq!(bytes, [75 * 512, 300]);
        // 128 of 301: 128 bytes too many for 75 sectors go with the rest.
        let odd: Vec<Segment> = (0..129).map(|i| segment(i << 16, 301)).collect();
        let requests = split(&odd);
        assert_eq!(requests[1][0], segment((127 << 16) + 173, 128));
        assert_eq!(requests[1][1], segment(128 << 16, 301));
        // Entries so small that 128 are no sector.
        let dust: Vec<Segment> = (0..200).map(|i| segment(i << 16, 1)).collect();
        let lengths: Vec<usize> = split(&dust).iter().map(Vec::len).collect();
        assert_eq!(lengths, [128, 72]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_limit_exceeded(
            list in prop::collection::vec((0..40_u64, 0..300_000_u64), 0..300),
        ) {
            let limits = HostLimits::SDHCI;
            let list: Vec<Segment> = (list.iter())
                .map(|&(place, len)| segment(place << 20, len))
                .collect();
            let requests = split(&list);
            let mut left = list.iter().filter(|s| s.len_bytes > 0).copied();
            let mut now = left.next();
            for request in &requests {
                prop_assert!((1..=limits.segments).contains(&request.len()));
                let bytes: u64 = request.iter().map(|s| s.len_bytes).sum();
                prop_assert!(bytes <= limits.request_bytes);
                for s in request {
                    prop_assert!(s.len_bytes <= limits.segment_bytes);
                    // The same bytes in the same order.
                    let (mut at, end) = (s.phys.0, s.phys.0 + s.len_bytes);
                    while at < end {
                        let from = now.as_mut().unwrap();
                        prop_assert_eq!(from.phys.0, at);
                        let part = from.len_bytes.min(end - at);
                        at += part;
                        from.phys.0 += part;
                        from.len_bytes -= part;
                        if from.len_bytes == 0 {
                            now = left.next();
                        }
                    }
                }
            }
            prop_assert!(now.is_none());
        }
    }
}
