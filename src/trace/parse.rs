//! Lines to events: chunks of the file in parallel, joined in file order.

use rayon::prelude::*;

use super::{
    damage::{Damage, Reason},
    event::{self, Devices, Event, List, Lists, Read},
    line::{self, Line},
};

/// The kernel's own limit of one printed event is a page or two; a list of 128
/// entries takes about 6 KiB. Anything longer is not a trace line, and is not
/// searched further.
pub(super) const LINE_MAX: usize = 1 << 20;

/// Damaged lines whose place and reason are kept; all are counted.
const DAMAGE_KEPT: usize = 20;

/// Bytes per parallel piece of work.
const CHUNK: usize = 1 << 20;

/// One event with its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged {
    pub(super) cpu: u32,
    pub(super) event: Event,
}

/// All that was read from a file.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) events: Vec<Logged>,
    pub(super) lists: Lists,
    pub(super) devices: Devices,
    pub(super) counts: Counts,
}

/// What the lines were.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) lines: u64,
    pub(super) events: u64,
    /// Lines with the frame of an event, used or not.
    pub(super) framed: u64,
    pub(super) unknown: u64,
    pub(super) damaged: u64,
    /// The first damaged lines.
    pub(super) damage: Vec<Damage>,
    pub(super) lost_events: u64,
    pub(super) truncated: u64,
    /// The processors that were seen, sorted.
    pub(super) cpus: Vec<u32>,
}

impl Log {
    /// Appends the lines of `bytes`, which begin and end at line boundaries.
    pub(super) fn read_lines(&mut self, bytes: &[u8]) {
        let chunks = split_at_lines(bytes);
        let logs: Vec<Log> = chunks.par_iter().map(|chunk| read_chunk(chunk)).collect();
        for log in logs {
            self.append(log);
        }
    }

    fn append(&mut self, other: Log) {
        // Names of the chunk's devices to ours. A trace with too many devices
        // loses the events of those beyond the limit, and says so.
        let devices: Vec<Result<u16, Reason>> = (other.devices.0.iter())
            .map(|name| self.devices.index_of(name))
            .collect();
        let list_base = self.lists.0.len();
        self.lists.0.extend_from_slice(&other.lists.0);
        let first_line = self.counts.lines;
        self.counts.append(other.counts);
        let moved = |list: List| List {
            start: list.start + list_base,
            ..list
        };
        for mut logged in other.events {
            let known = match &mut logged.event {
                Event::MapSg {
                    device,
                    dma,
                    sizes,
                    phys,
                    ..
                } => {
                    (*dma, *sizes, *phys) = (moved(*dma), moved(*sizes), moved(*phys));
                    remap(device, &devices)
                }
                Event::UnmapSg { device, phys } => {
                    *phys = moved(*phys);
                    remap(device, &devices)
                }
                Event::MapOne { device, .. } | Event::UnmapOne { device, .. } => {
                    remap(device, &devices)
                }
                Event::Map { .. } | Event::Unmap { .. } | Event::Issue { .. } => Ok(()),
            };
            match known {
                Ok(()) => self.events.push(logged),
                Err(reason) => {
                    self.counts.events -= 1;
                    self.counts.note_damage(Damage {
                        line: first_line + 1,
                        reason,
                    });
                }
            }
        }
    }
}

fn remap(device: &mut u16, devices: &[Result<u16, Reason>]) -> Result<(), Reason> {
    *device = devices[usize::from(*device)]?;
    Ok(())
}

impl Counts {
    /// Notes something wrong at the line after the last.
    pub(super) fn damaged_end(&mut self, reason: Reason) {
        let line = self.lines + 1;
        self.note_damage(Damage { line, reason });
    }

    pub(super) fn note_damage(&mut self, damage: Damage) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_KEPT {
            self.damage.push(damage);
        }
    }

    fn append(&mut self, other: Counts) {
        for damage in &other.damage {
            if self.damage.len() < DAMAGE_KEPT {
                self.damage.push(Damage {
                    line: damage.line + self.lines,
                    ..*damage
                });
            }
        }
        self.damaged += other.damaged;
        self.lines += other.lines;
        self.events += other.events;
        self.framed += other.framed;
        self.unknown += other.unknown;
        self.lost_events = self.lost_events.saturating_add(other.lost_events);
        self.truncated += other.truncated;
        for cpu in other.cpus {
            self.saw_cpu(cpu);
        }
    }

    pub(super) fn saw_cpu(&mut self, cpu: u32) {
        if let Err(at) = self.cpus.binary_search(&cpu) {
            self.cpus.insert(at, cpu);
        }
    }
}

/// Pieces of about [`CHUNK`] bytes that end at line ends.
fn split_at_lines(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while bytes.len() > CHUNK {
        let end = match bytes[CHUNK..].iter().position(|&b| b == b'\n') {
            Some(offset) => CHUNK + offset + 1,
            None => bytes.len(),
        };
        let (chunk, rest) = bytes.split_at(end);
        chunks.push(chunk);
        bytes = rest;
    }
    if !bytes.is_empty() {
        chunks.push(bytes);
    }
    chunks
}

/// The lines of bytes that end with a line.
pub(super) fn lines_of(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    lines.split(|&b| b == b'\n')
}

fn read_chunk(bytes: &[u8]) -> Log {
    let mut log = Log::default();
    for line in lines_of(bytes) {
        read_line(line, &mut log);
    }
    log
}

fn read_line(line: &[u8], log: &mut Log) {
    let counts = &mut log.counts;
    counts.lines += 1;
    let number = counts.lines;
    if line.len() > LINE_MAX {
        counts.note_damage(Damage {
            line: number,
            reason: Reason::LineTooLong,
        });
        return;
    }
    let frame = match line::classify(line) {
        Line::Comment => return,
        Line::Unknown => {
            counts.unknown += 1;
            return;
        }
        Line::Lost(count) => {
            // Where the kernel does not know how many, it was one at least.
            counts.lost_events = counts.lost_events.saturating_add(count.unwrap_or(1));
            return;
        }
        Line::Event(frame) => frame,
    };
    counts.framed += 1;
    counts.saw_cpu(frame.cpu);
    match event::read(&frame, &mut log.devices, &mut log.lists) {
        Ok(Read::Event(event)) => {
            counts.events += 1;
            counts.truncated += u64::from(matches!(
                event,
                Event::MapSg {
                    truncated: true,
                    ..
                }
            ));
            log.events.push(Logged {
                cpu: frame.cpu,
                event,
            });
        }
        Ok(Read::Nothing) => counts.events += 1,
        Ok(Read::Other) => counts.unknown += 1,
        Err(reason) => counts.note_damage(Damage {
            line: number,
            reason,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_join_to_what_one_piece_gives() {
        let line = |i: u64| {
            format!(
                "  t-1 [00{}] ..... 1.5: dma_map_sg: dev{} dir=TO_DEVICE dma_addrs={{0x{i}000}} sizes={{0x1000}} phys_addrs={{0x{i}000}} attrs=\n",
                i % 4,
                i % 3
            )
        };
        let mut text: String = (1..20_000).map(line).collect();
        text.push_str("  t-1 [000] ..... 1.5: map: IOMMU: iova=zz\n");
        assert!(text.len() > 2 * CHUNK);
        let mut log = Log::default();
        log.read_lines(text.as_bytes());
        assert_eq!(log.counts.lines, 20_000);
        assert_eq!(log.counts.events, 19_999);
        assert_eq!(log.counts.cpus, [0, 1, 2, 3]);
        assert_eq!(
            log.counts.damage,
            [Damage {
                line: 20_000,
                reason: Reason::NotANumber
            }]
        );
        for (i, logged) in log.events.iter().enumerate() {
            let Event::MapSg { device, dma, .. } = logged.event else {
                panic!("{logged:?}");
            };
            let number = i as u64 + 1;
            let address = u64::from_str_radix(&format!("{number}000"), 16).unwrap();
            assert_eq!(log.lists.get(dma), [address]);
            assert_eq!(
                log.devices.0[usize::from(device)],
                format!("dev{}", number % 3)
            );
        }
    }

    #[test]
    fn the_sixty_fifth_device_is_refused_not_mixed_up() {
        let text: String = (0..66)
            .map(|i| format!("t-1 [000] 1.5: dma_unmap_page: dev{i} dir=TO_DEVICE dma_addr=1000 size=1 attrs=\n"))
            .collect();
        let mut log = Log::default();
        log.read_lines(text.as_bytes());
        assert_eq!(log.events.len(), 64);
        assert_eq!(log.counts.damaged, 2);
        assert_eq!(log.counts.damage[0].reason, Reason::TooManyDevices);
    }

    #[test]
    fn an_endless_line_is_damage() {
        let mut log = Log::default();
        log.read_lines(&vec![b'['; LINE_MAX + 1]);
        assert_eq!(log.counts.damaged, 1);
    }
}
