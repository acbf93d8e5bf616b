//! The events that carry mappings, as the kernel prints them.
//!
//! Formats: `include/trace/events/{dma,iommu,block}.h` of Linux (6.12 for the
//! scatter lists; `dma_map_phys` came with 6.14 and prints what `dma_map_page`
//! does; `map` had no end address before 5.x).

use super::{
    damage::Reason,
    line::Frame,
    scan::{Words, decimal, hex, hex_list, pair, part_of},
};
use crate::workload::Direction;

/// A list of addresses or sizes, kept in [`Lists`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// All lists of a trace, one behind the other: a list per event would be an
/// allocation per event.
#[derive(Debug, Default)]
pub(super) struct Lists(pub(super) Vec<u64>);

impl Lists {
    pub(super) fn get(&self, list: List) -> &[u64] {
        &self.0[list.start..list.start + list.len]
    }

    fn read(&mut self, text: &[u8]) -> Result<List, Reason> {
        let start = self.0.len();
        match hex_list(text, &mut self.0) {
            Ok(len) => Ok(List { start, len }),
            Err(reason) => {
                self.0.truncate(start);
                Err(reason)
            }
        }
    }
}

/// Index into the names of the devices of one trace.
pub(super) type DeviceIndex = u16;

/// An event of the trace. Addresses and sizes are checked: no sum of them
/// leaves 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// `iommu:map`: one physically contiguous run enters the page tables.
    Map { iova: u64, phys: u64, len: u64 },
    /// `iommu:unmap`.
    Unmap { iova: u64, len: u64 },
    /// `dma:dma_map_sg`. `sizes` belong to `dma`, not to `phys`.
    MapSg {
        device: DeviceIndex,
        direction: Direction,
        truncated: bool,
        dma: List,
        sizes: List,
        phys: List,
    },
    /// `dma:dma_unmap_sg`.
    UnmapSg { device: DeviceIndex, phys: List },
    /// `dma:dma_map_page`, `dma_map_phys`, `dma_map_resource`.
    MapOne {
        device: DeviceIndex,
        direction: Direction,
        dma: u64,
        phys: u64,
        len: u64,
    },
    /// `dma:dma_unmap_page` and the others.
    UnmapOne { device: DeviceIndex, dma: u64 },
    /// `block:block_rq_issue` of a request that moves data.
    Issue { direction: Direction, bytes: u64 },
}

/// What a frame turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Event(Event),
    /// Known and of no use: a completion, a flush, a mapping that failed.
    Nothing,
    /// An event this tool does not use.
    Other,
}

/// Names of devices in order of appearance.
#[derive(Debug, Default)]
pub(super) struct Devices(pub(super) Vec<String>);

impl Devices {
    pub(super) fn index_of(&mut self, name: &str) -> Result<DeviceIndex, Reason> {
        let known = self.0.iter().position(|known| known == name);
        let index = match known {
            Some(index) => index,
            None if self.0.len() < Reason::MAX_DEVICES => {
                self.0.push(name.to_owned());
                self.0.len() - 1
            }
            None => return Err(Reason::TooManyDevices),
        };
        Ok(index as DeviceIndex)
    }
}

/// Reads the fields of an event.
pub(super) fn read(
    frame: &Frame<'_>,
    devices: &mut Devices,
    lists: &mut Lists,
) -> Result<Read, Reason> {
    match frame.event {
        b"map" => map(frame.fields).map(Read::Event),
        b"unmap" => unmap(frame.fields).map(Read::Event),
        b"dma_map_sg" => map_sg(frame.fields, devices, lists).map(Read::Event),
        b"dma_unmap_sg" => unmap_sg(frame.fields, devices, lists).map(Read::Event),
        b"dma_map_page" | b"dma_map_phys" | b"dma_map_resource" => map_one(frame.fields, devices),
        b"dma_unmap_page" | b"dma_unmap_phys" | b"dma_unmap_resource" => {
            unmap_one(frame.fields, devices).map(Read::Event)
        }
        b"block_rq_issue" => issue(frame.fields),
        b"block_rq_complete" => Ok(Read::Nothing),
        _ => Ok(Read::Other),
    }
}

/// Physical addresses are held to 48 bits, the output size of the tables the
/// runs use.
const PHYS_END: u64 = 1 << 48;

fn check_len(len: u64) -> Result<u64, Reason> {
    match len {
        0 => Err(Reason::SizeMismatch),
        len if len > Reason::MAX_REQUEST_BYTES => Err(Reason::TooLarge),
        len => Ok(len),
    }
}

fn check_phys(phys: u64, len: u64) -> Result<(), Reason> {
    match phys.checked_add(len) {
        Some(end) if end <= PHYS_END => Ok(()),
        _ => Err(Reason::AddressRange),
    }
}

fn check_iova(iova: u64, len: u64) -> Result<(), Reason> {
    iova.checked_add(len)
        .map(|_| ())
        .ok_or(Reason::AddressRange)
}

/// The values of `keys`, in their order; pairs of other names are skipped.
fn values<'a, const N: usize>(
    fields: &'a [u8],
    keys: [&'static str; N],
) -> Result<[&'a [u8]; N], Reason> {
    let mut found: [Option<&[u8]>; N] = [None; N];
    for word in Words(fields) {
        let Some((key, value)) = pair(word) else {
            continue;
        };
        if let Some(i) = keys.iter().position(|k| k.as_bytes() == key) {
            found[i] = Some(value);
        }
    }
    let mut all: [&[u8]; N] = [b""; N];
    for i in 0..N {
        all[i] = found[i].ok_or(Reason::Missing(keys[i]))?;
    }
    Ok(all)
}

/// `IOMMU: iova=0x... - 0x... `: start and, where printed, end.
fn iova_range(fields: &[u8]) -> Result<(u64, Option<u64>), Reason> {
    let mut words = Words(fields);
    if words.next() != Some(b"IOMMU:") {
        return Err(Reason::Missing("IOMMU:"));
    }
    let first = words.next().and_then(pair);
    let Some((b"iova", start)) = first else {
        return Err(Reason::Missing("iova"));
    };
    let start = hex(start)?;
    if words.next() != Some(b"-") {
        return Ok((start, None));
    }
    let end = hex(words.next().ok_or(Reason::Missing("end of iova"))?)?;
    Ok((start, Some(end)))
}

fn check_end(iova: u64, end: Option<u64>, len: u64) -> Result<(), Reason> {
    check_iova(iova, len)?;
    match end {
        Some(end) if end != iova + len => Err(Reason::SizeMismatch),
        _ => Ok(()),
    }
}

fn map(fields: &[u8]) -> Result<Event, Reason> {
    let (iova, end) = iova_range(fields)?;
    let [paddr, size] = values(fields, ["paddr", "size"])?;
    let phys = hex(paddr)?;
    let len = check_len(decimal(size)?)?;
    check_end(iova, end, len)?;
    check_phys(phys, len)?;
    Ok(Event::Map { iova, phys, len })
}

fn unmap(fields: &[u8]) -> Result<Event, Reason> {
    let (iova, end) = iova_range(fields)?;
    let [size, unmapped] = values(fields, ["size", "unmapped_size"])?;
    let len = check_len(decimal(size)?)?;
    check_end(iova, end, len)?;
    decimal(unmapped)?;
    Ok(Event::Unmap { iova, len })
}

/// The device stands first, without a key.
fn device(fields: &[u8], devices: &mut Devices) -> Result<DeviceIndex, Reason> {
    let word = Words(fields).next().ok_or(Reason::Missing("device"))?;
    if pair(word).is_some() {
        return Err(Reason::Missing("device"));
    }
    devices.index_of(&String::from_utf8_lossy(word))
}

fn direction(text: &[u8]) -> Result<Direction, Reason> {
    match text {
        b"TO_DEVICE" => Ok(Direction::ToDevice),
        b"FROM_DEVICE" => Ok(Direction::FromDevice),
        b"BIDIRECTIONAL" => Ok(Direction::Bidirectional),
        _ => Err(Reason::Direction),
    }
}

fn map_sg(fields: &[u8], devices: &mut Devices, lists: &mut Lists) -> Result<Event, Reason> {
    let before = lists.0.len();
    let event = map_sg_into(fields, devices, lists);
    if event.is_err() {
        lists.0.truncate(before);
    }
    event
}

fn map_sg_into(fields: &[u8], devices: &mut Devices, lists: &mut Lists) -> Result<Event, Reason> {
    // `attrs` is not used, but it stands last: without it the line was cut.
    let [dir, dma, sizes, phys, _attrs] =
        values(fields, ["dir", "dma_addrs", "sizes", "phys_addrs", "attrs"])?;
    let truncated = Words(fields).any(|word| word == b"[TRUNCATED]");
    let direction = direction(dir)?;
    let dma = lists.read(dma)?;
    let sizes = lists.read(sizes)?;
    let phys = lists.read(phys)?;
    if dma.len != sizes.len || dma.len == 0 || phys.len == 0 {
        return Err(Reason::ListLengths);
    }
    // Kernels that print the counts print them both.
    if let Ok([nents, ents]) = values(fields, ["nents", "ents"]) {
        let (inputs, outputs) = (part_of(nents)?, part_of(ents)?);
        let whole = inputs.0 == inputs.1 && outputs.0 == outputs.1;
        if inputs.0 != phys.len as u64 || outputs.0 != dma.len as u64 || !(whole || truncated) {
            return Err(Reason::ListLengths);
        }
    }
    let mut total = 0;
    for (&at, &len) in lists.get(dma).iter().zip(lists.get(sizes)) {
        total = check_len(check_len(len)? + total)?;
        check_iova(at, len)?;
    }
    for &at in lists.get(phys) {
        check_phys(at, 1)?;
    }
    Ok(Event::MapSg {
        device: device(fields, devices)?,
        direction,
        truncated,
        dma,
        sizes,
        phys,
    })
}

fn unmap_sg(fields: &[u8], devices: &mut Devices, lists: &mut Lists) -> Result<Event, Reason> {
    let [dir, phys, _attrs] = values(fields, ["dir", "phys_addrs", "attrs"])?;
    direction(dir)?;
    let device = device(fields, devices)?;
    let phys = lists.read(phys)?;
    Ok(Event::UnmapSg { device, phys })
}

fn map_one(fields: &[u8], devices: &mut Devices) -> Result<Read, Reason> {
    let [dir, dma, size, phys, _attrs] =
        values(fields, ["dir", "dma_addr", "size", "phys_addr", "attrs"])?;
    let direction = direction(dir)?;
    let (dma, phys) = (hex(dma)?, hex(phys)?);
    // DMA_MAPPING_ERROR: the mapping failed, nothing will be unmapped.
    if dma == u64::MAX {
        return Ok(Read::Nothing);
    }
    let len = check_len(decimal(size)?)?;
    check_iova(dma, len)?;
    check_phys(phys, len)?;
    Ok(Read::Event(Event::MapOne {
        device: device(fields, devices)?,
        direction,
        dma,
        phys,
        len,
    }))
}

fn unmap_one(fields: &[u8], devices: &mut Devices) -> Result<Event, Reason> {
    let [dir, dma, size, _attrs] = values(fields, ["dir", "dma_addr", "size", "attrs"])?;
    direction(dir)?;
    let dma = hex(dma)?;
    check_iova(dma, check_len(decimal(size)?)?)?;
    Ok(Event::UnmapOne {
        device: device(fields, devices)?,
        dma,
    })
}

/// `179,0 RS 65536 () 2048 + 128 be,0,4 [rdr]`; kernels before 6.11 have no
/// priority (`be,0,4`).
fn issue(fields: &[u8]) -> Result<Read, Reason> {
    let mut words = Words(fields);
    let mut next = |name| words.next().ok_or(Reason::Missing(name));
    next("device")?;
    let operation = next("operation")?;
    let bytes = decimal(next("bytes")?)?;
    let mut word = next("command")?;
    // The command of a passthrough request is a list of hex bytes in parentheses.
    while !word.ends_with(b")") {
        word = next("command")?;
    }
    decimal(next("sector")?)?;
    if next("sectors")? != b"+" {
        return Err(Reason::Missing("sectors"));
    }
    decimal(next("sectors")?)?;
    // A leading F is a flush that goes before the data.
    let direction = match operation.strip_prefix(b"F").unwrap_or(operation).first() {
        Some(b'R') => Direction::FromDevice,
        Some(b'W') => Direction::ToDevice,
        _ => return Ok(Read::Nothing),
    };
    Ok(if bytes == 0 {
        Read::Nothing
    } else {
        Read::Event(Event::Issue { direction, bytes })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(event: &str, fields: &str) -> Result<Read, Reason> {
        let frame = Frame {
            cpu: 0,
            event: event.as_bytes(),
            fields: fields.as_bytes(),
        };
        read(&frame, &mut Devices::default(), &mut Lists::default())
    }

    #[test]
    fn map_with_and_without_an_end_address() {
        let expected = Ok(Read::Event(Event::Map {
            iova: 0xfff6_c000,
            phys: 0x4392_6000,
            len: 16384,
        }));
        let new = "IOMMU: iova=0x00000000fff6c000 - 0x00000000fff70000 paddr=0x0000000043926000 size=16384";
        assert_eq!(parse("map", new), expected);
        let old = "IOMMU: iova=0x00000000fff6c000 paddr=0x0000000043926000 size=16384";
        assert_eq!(parse("map", old), expected);
        let cut = "IOMMU: iova=0x00000000fff6c000 - 0x00000000fff70000 paddr=0x0000000043926000 size=1638";
        assert_eq!(parse("map", cut), Err(Reason::SizeMismatch));
        let wraps = "IOMMU: iova=0xfffffffffffff000 paddr=0x1000 size=8192";
        assert_eq!(parse("map", wraps), Err(Reason::AddressRange));
    }

    #[test]
    fn scatter_list_lengths_must_agree() {
        let good = "0000:00:02.0 dir=FROM_DEVICE nents=2/2 ents=1/1 dma_addrs={0x1000} sizes={0x2000} phys_addrs={0x5000,0x9000} attrs=";
        assert!(matches!(parse("dma_map_sg", good), Ok(Read::Event(_))));
        let short = good.replace("nents=2/2", "nents=3/3");
        assert_eq!(parse("dma_map_sg", &short), Err(Reason::ListLengths));
        let more_exist = good.replace("nents=2/2", "nents=2/200");
        assert_eq!(parse("dma_map_sg", &more_exist), Err(Reason::ListLengths));
        let truncated = more_exist.replace("ents=1/1 ", "ents=1/1 [TRUNCATED] ");
        assert!(matches!(
            parse("dma_map_sg", &truncated),
            Ok(Read::Event(Event::MapSg {
                truncated: true,
                ..
            }))
        ));
        let cut = &good[..good.len() - 6];
        assert_eq!(parse("dma_map_sg", cut), Err(Reason::Missing("attrs")));
        let no_direction = good.replace("FROM_DEVICE", "NONE");
        assert_eq!(parse("dma_map_sg", &no_direction), Err(Reason::Direction));
    }

    #[test]
    fn a_failed_mapping_is_no_mapping() {
        let failed =
            "a dir=TO_DEVICE dma_addr=ffffffffffffffff size=4096 phys_addr=487d4000 attrs=";
        assert_eq!(parse("dma_map_phys", failed), Ok(Read::Nothing));
    }

    #[test]
    fn block_requests_of_old_and_new_kernels() {
        let expected = Ok(Read::Event(Event::Issue {
            direction: Direction::FromDevice,
            bytes: 65536,
        }));
        assert_eq!(
            parse(
                "block_rq_issue",
                "179,0 RS 65536 () 2048 + 128 be,0,4 [rdr]"
            ),
            expected
        );
        assert_eq!(
            parse("block_rq_issue", "179,0 RS 65536 () 2048 + 128 [rdr]"),
            expected
        );
        let flush_then_write = "179,0 FWFSM 4096 () 2048 + 8 [jbd2]";
        assert_eq!(
            parse("block_rq_issue", flush_then_write),
            Ok(Read::Event(Event::Issue {
                direction: Direction::ToDevice,
                bytes: 4096
            }))
        );
        assert_eq!(
            parse("block_rq_issue", "254,16 FF 0 () 0 + 0 none,0,0 [kworker]"),
            Ok(Read::Nothing)
        );
        assert_eq!(
            parse("block_rq_issue", "179,0 RS"),
            Err(Reason::Missing("bytes"))
        );
    }
}
