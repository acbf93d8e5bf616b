//! One workload in one mode, with the card doing the I/O.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use dmabench_dma::{Batch, Direction, DmaSegment, DomainConfig, Mode, Pending};
use dmabench_flushq::BackendCounts;
use dmabench_platform::{Iova, PhysAddr, TimeNs};
use dmabench_smmu::qemu::{BLOCK_BYTES, TransferError};

use super::{
    Flaw, QemuCounts, QemuResult, Stop,
    buffer::{Buffer, pattern},
    ground::Mapped,
    has,
    lane::Lane,
    rig::Rig,
};
use crate::{
    cli::ModeArg,
    run::Plan,
    workload::{Request, Step, Workload},
};

const PAGE: u64 = 4096;
/// Blocks at the end of a card that only probes use.
const PROBE_BLOCKS: u64 = 8;
/// Old addresses that are used once more after the last flush.
const LAST_PROBES: usize = 64;

/// Runs the first `limit_bytes` of `workload` in `mode`, whose domains are set up
/// by `config`.
pub(super) fn run(
    rig: &mut Rig,
    workload: &Workload,
    mode: ModeArg,
    config: DomainConfig,
    plan: &Plan,
    limit_bytes: u64,
) -> Result<QemuResult, Stop> {
    let begun = Instant::now();
    let lanes = (0..workload.devices.len())
        .map(|card| Lane::new(rig, card, mode, config.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    // Of what was before: bring-up, and the modes before this one.
    let _before = rig.traced();
    let counts = |lanes: &[Lane]| -> Vec<BackendCounts> {
        lanes.iter().map(|lane| lane.counting.counts()).collect()
    };
    let before = counts(&lanes);
    let kind = match (mode, config.mode) {
        (ModeArg::Bounce, _) => Kind::Copied,
        (ModeArg::Premapped, _) => Kind::Registered,
        (_, Mode::Passthrough) => Kind::Passed,
        _ => Kind::Mapped,
    };
    let room = workload.live_max as usize + 1;
    let mut replay = Replay {
        rig,
        workload,
        mode: config.mode,
        kind,
        plan,
        live: (0..workload.live_max).map(|_| None).collect(),
        out: vec![DmaSegment::EMPTY; workload.segments_max()],
        pending: lanes.iter().map(|_| None).collect(),
        batches: (lanes.iter())
            .map(|lane| Ok(lane.ground.batch(room)?.map(|batch| (batch, Vec::new()))))
            .collect::<Result<_, Stop>>()?,
        returned: Arc::default(),
        old: Vec::new(),
        now: TimeNs(0),
        next_block: 0,
        stamps: 0,
        requests: 0,
        without_transfer: 0,
        bytes: 0,
        probes: 0,
        stale: 0,
        events: 0,
        lanes,
    };
    replay.play(limit_bytes)?;
    let after = counts(&replay.lanes);
    let mut ours = QemuCounts {
        events: replay.events,
        ..QemuCounts::default()
    };
    for (after, before) in after.into_iter().zip(before) {
        let counts = after - before;
        ours.invalidations += counts.commands();
        ours.syncs += counts.syncs;
    }
    let traced = replay.rig.traced();
    let theirs = QemuCounts {
        invalidations: traced.invalidations(),
        syncs: traced.command("SMMU_CMD_SYNC"),
        events: traced.events.len() as u64,
    };
    if ours != theirs {
        return Err(Stop::Defect(format!(
            "we counted {ours:?}, QEMU {theirs:?}: {:?}",
            traced.commands
        )));
    }
    let exposes = matches!(replay.mode, Mode::Lazy(_) | Mode::LazySingle(_));
    if !exposes && replay.stale != 0 {
        return Err(Stop::Defect(format!(
            "{} buffers were reachable after they had been given back",
            replay.stale
        )));
    }
    let after_flush = replay.after_flush()?;
    let probed = matches!(kind, Kind::Mapped | Kind::Copied);
    let result = QemuResult {
        workload: workload.name.clone(),
        mode: mode.name().to_owned(),
        requests: replay.requests,
        requests_all: workload.requests().len() as u64,
        requests_without_transfer: replay.without_transfer,
        bytes_verified: replay.bytes,
        ours,
        qemu: theirs,
        probes: probed.then_some(replay.probes),
        stale_accesses: probed.then_some(replay.stale),
        probes_after_flush: (kind == Kind::Mapped).then_some(after_flush),
        seconds: begun.elapsed().as_secs_f64(),
    };
    let Replay {
        rig,
        lanes,
        batches,
        ..
    } = replay;
    drop(batches);
    for lane in lanes {
        lane.close(rig)?;
    }
    Ok(result)
}

/// What becomes of an address when its buffer is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is the memory's own.
    Passed,
    /// It is unmapped.
    Mapped,
    /// It goes on to lead to a slot, and never led to the buffer.
    Copied,
    /// It goes on to lead to the buffer, as agreed.
    Registered,
}

/// Where a use of an old address got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// It was stopped.
    Nowhere,
    /// To the buffer, or from it.
    Buffer,
    /// To other memory, or from it.
    Elsewhere,
}

/// A request that is mapped.
struct Live {
    mapped: Mapped,
    buffer: Buffer,
    /// What the controller is told, one for each segment.
    pieces: Vec<(Iova, u64)>,
}

/// A buffer that its owner has again, and how the device knew it.
struct Returned {
    card: usize,
    /// The page of its first byte.
    iova: Iova,
    /// Where that is in memory.
    phys: PhysAddr,
    direction: Direction,
    /// Keeps the memory until the device has tried.
    _buffer: Buffer,
}

struct Replay<'a> {
    rig: &'a mut Rig,
    workload: &'a Workload,
    mode: Mode,
    kind: Kind,
    plan: &'a Plan,
    lanes: Vec<Lane>,
    /// By place.
    live: Vec<Option<Live>>,
    out: Vec<DmaSegment>,
    /// Pipelined: by card, the unmap that has begun.
    pending: Vec<Option<(Pending, Returned)>>,
    /// Batched: by card, the unmaps of one completion.
    batches: Vec<Option<(Batch, Vec<Returned>)>>,
    /// Given back and not probed yet; parked buffers come here from a flush.
    returned: Arc<Mutex<Vec<Returned>>>,
    /// Addresses that were used and are no longer mapped.
    old: Vec<(usize, Iova)>,
    now: TimeNs,
    next_block: u64,
    stamps: u64,
    requests: u64,
    without_transfer: u64,
    bytes: u64,
    probes: u64,
    stale: u64,
    events: u64,
}

impl Replay<'_> {
    fn play(&mut self, limit_bytes: u64) -> Result<(), Stop> {
        let mut mapped_bytes = 0;
        for step in self.workload.steps() {
            match *step {
                Step::Map(number) if mapped_bytes < limit_bytes => {
                    // The completion before it is over.
                    self.finish_batches()?;
                    let request = &self.workload.requests()[number as usize];
                    mapped_bytes += request.bytes;
                    let idle = self.workload.idle_ns(number);
                    self.advance_to(self.now.saturating_add_ns(idle))?;
                    self.map(request)?;
                }
                // Beyond the limit.
                Step::Map(_) => {}
                Step::Unmap(number) => {
                    let request = &self.workload.requests()[number as usize];
                    if let Some(live) = self.live[request.place as usize].take() {
                        self.finish(request, live)?;
                    }
                }
            }
            if mapped_bytes >= limit_bytes && self.live.iter().all(Option::is_none) {
                break;
            }
        }
        self.finish_batches()?;
        for card in 0..self.lanes.len() {
            self.complete(card)?;
        }
        self.probe_returned()
    }

    fn map(&mut self, request: &Request) -> Result<(), Stop> {
        let wanted = self.workload.segments(request);
        let buffer = Buffer::new(&self.rig.arena, wanted).map_err(Stop::refused)?;
        let lane = &self.lanes[usize::from(request.device)];
        let (list, out) = (&buffer.segments, &mut self.out);
        let mapped = (lane.ground).map(self.rig, &lane.device, list, out, request.direction)?;
        let out = &self.out[..wanted.len()];
        let pieces = out.iter().map(|s| (s.addr, s.len_bytes)).collect();
        self.live[request.place as usize] = Some(Live {
            mapped,
            buffer,
            pieces,
        });
        self.requests += 1;
        Ok(())
    }

    /// The transfer, then the unmap.
    fn finish(&mut self, request: &Request, live: Live) -> Result<(), Stop> {
        let card = usize::from(request.device);
        self.transfer(card, request.direction, &live)?;
        let service_ns = self.plan.device.service_ns(request.bytes);
        self.advance_to(self.now.saturating_add_ns(service_ns))?;
        let Live {
            mapped,
            buffer,
            pieces,
        } = live;
        let page = |addr: u64| addr & !(PAGE - 1);
        let returned = Returned {
            card,
            iova: Iova(page(pieces[0].0.0)),
            phys: PhysAddr(page(buffer.segments[0].phys.0)),
            direction: request.direction,
            _buffer: buffer,
        };
        // The unmap before this one was in flight during the transfer.
        self.complete(card)?;
        self.unmap(card, mapped, returned)?;
        self.probe_returned()?;
        // An entry of a flush queue gets its time from the first poll that sees
        // it.
        self.advance_to(self.now)
    }

    fn unmap(&mut self, card: usize, mapped: Mapped, returned: Returned) -> Result<(), Stop> {
        let ground = &self.lanes[card].ground;
        match self.mode {
            Mode::StrictPipelined => {
                let pending = ground.unmap_begin(self.rig, mapped)?;
                self.pending[card] = Some((pending, returned));
            }
            Mode::StrictBatched => {
                let Some((batch, waiting)) = &mut self.batches[card] else {
                    return Err(Stop::Defect("no batch in a mode of batches".to_owned()));
                };
                let refused = match mapped {
                    Mapped::Domain(mapping) => batch.push(mapping).is_err(),
                    _ => true,
                };
                if refused {
                    return Err(Stop::Defect("a batch has no room".to_owned()));
                }
                waiting.push(returned);
            }
            Mode::LazyParked(_) => {
                let all = Arc::clone(&self.returned);
                let sink = move |returned| give_back(&all, returned);
                ground.unmap_parked(self.rig, mapped, returned, sink)?;
            }
            _ => {
                ground.unmap(self.rig, mapped)?;
                give_back(&self.returned, returned);
            }
        }
        Ok(())
    }

    /// Waits for the unmap that has begun, if there is one.
    fn complete(&mut self, card: usize) -> Result<(), Stop> {
        if let Some((pending, returned)) = self.pending[card].take() {
            self.lanes[card].ground.complete(self.rig, pending)?;
            give_back(&self.returned, returned);
        }
        Ok(())
    }

    /// Unmaps what was completed since the last map.
    fn finish_batches(&mut self) -> Result<(), Stop> {
        for (lane, batch) in self.lanes.iter().zip(&mut self.batches) {
            if let Some((batch, waiting)) = batch
                && !batch.is_empty()
            {
                lane.ground.unmap_batch(self.rig, batch)?;
                for returned in waiting.drain(..) {
                    give_back(&self.returned, returned);
                }
            }
        }
        self.probe_returned()
    }

    /// Moves the virtual clock, with a stop at every deadline.
    fn advance_to(&mut self, to: TimeNs) -> Result<(), Stop> {
        for card in 0..self.lanes.len() {
            let mut last = None;
            let ground = &self.lanes[card].ground;
            while let Some(due) = ground.next_deadline().filter(|due| *due <= to) {
                if last == Some(due) {
                    let what = format!("the deadline of {} ns passed without effect", due.0);
                    return Err(Stop::Defect(what));
                }
                last = Some(due);
                ground.poll(self.rig, due.max(self.now))?;
            }
        }
        self.now = self.now.max(to);
        self.probe_returned()
    }

    fn transfer(&mut self, card: usize, direction: Direction, live: &Live) -> Result<(), Stop> {
        let buffer = &live.buffer;
        if !buffer.is_movable() {
            self.without_transfer += 1;
            return Ok(());
        }
        let pieces = || live.pieces.iter().copied();
        if matches!(direction, Direction::FromDevice | Direction::Bidirectional) {
            let block = self.place(card, buffer.bytes);
            let data = self.stamp(buffer.bytes);
            let image = self.rig.hosts[card].image().clone();
            image.write(block, &data)?;
            if has(Flaw::Corrupt) {
                image.write(block, &[!data[0]])?;
            }
            self.lanes[card].with_list(self.rig, pieces(), |rig, list| {
                let moved = rig.hosts[card].read(block, list);
                arrived(rig, moved)
            })?;
            self.sync_for_cpu(card, live)?;
            if buffer.read().map_err(Stop::refused)? != data {
                return Err(Stop::Defect("data read from the card differ".to_owned()));
            }
            self.bytes += buffer.bytes;
        }
        if matches!(direction, Direction::ToDevice | Direction::Bidirectional) {
            let block = self.place(card, buffer.bytes);
            let data = self.stamp(buffer.bytes);
            buffer.write(&data).map_err(Stop::refused)?;
            self.sync_for_device(card, live)?;
            self.lanes[card].with_list(self.rig, pieces(), |rig, list| {
                let moved = rig.hosts[card].write(block, list);
                arrived(rig, moved)
            })?;
            let mut on_card = vec![0; data.len()];
            self.rig.hosts[card].image().read(block, &mut on_card)?;
            if on_card != data {
                return Err(Stop::Defect("data written to the card differ".to_owned()));
            }
            self.bytes += buffer.bytes;
        }
        Ok(())
    }

    /// Copies: what the device wrote into the buffer.
    fn sync_for_cpu(&self, card: usize, live: &Live) -> Result<(), Stop> {
        self.lanes[card].ground.sync_for_cpu(self.rig, &live.mapped)
    }

    /// Copies: what the device is to read out of the buffer.
    fn sync_for_device(&self, card: usize, live: &Live) -> Result<(), Stop> {
        (self.lanes[card].ground).sync_for_device(self.rig, &live.mapped)
    }

    /// The next blocks of the card; after its end its beginning.
    fn place(&mut self, card: usize, bytes: u64) -> u64 {
        let (blocks, end) = (bytes / BLOCK_BYTES, self.rig.hosts[card].blocks());
        if self.next_block + blocks > end - PROBE_BLOCKS {
            self.next_block = 0;
        }
        let block = self.next_block;
        self.next_block += blocks;
        block
    }

    fn stamp(&mut self, bytes: u64) -> Vec<u8> {
        self.stamps += 1;
        pattern(self.stamps, bytes)
    }

    /// The device uses the addresses of what was given back, once each.
    fn probe_returned(&mut self) -> Result<(), Stop> {
        let returned = std::mem::take(&mut *lock(&self.returned));
        for buffer in returned {
            if matches!(self.kind, Kind::Passed | Kind::Registered) {
                continue;
            }
            self.probes += 1;
            match self.probe(
                buffer.card,
                buffer.iova,
                Some(buffer.phys),
                buffer.direction,
            )? {
                Got::Buffer => self.stale += 1,
                Got::Elsewhere if self.kind == Kind::Mapped => {
                    return Err(Stop::Defect(
                        "a use of an old address reached other memory than its buffer".to_owned(),
                    ));
                }
                Got::Elsewhere | Got::Nowhere => {}
            }
            if self.old.len() < LAST_PROBES || self.probes.is_multiple_of(16) {
                self.old.truncate(LAST_PROBES - 1);
                self.old.insert(0, (buffer.card, buffer.iova));
            }
        }
        Ok(())
    }

    /// One block at `iova`, in the direction in which the device was allowed to.
    /// Where it got, if the buffer's page is at `phys`.
    fn probe(
        &mut self,
        card: usize,
        iova: Iova,
        phys: Option<PhysAddr>,
        direction: Direction,
    ) -> Result<Got, Stop> {
        let block = self.rig.hosts[card].blocks() - PROBE_BLOCKS;
        let (in_memory, on_card) = (self.stamp(BLOCK_BYTES), self.stamp(BLOCK_BYTES));
        let image = self.rig.hosts[card].image().clone();
        image.write(block, &on_card)?;
        if let Some(phys) = phys {
            self.rig
                .ram()
                .write(phys, &in_memory)
                .map_err(Stop::refused)?;
        }
        let piece = [(iova, BLOCK_BYTES)];
        let moved = self.lanes[card].with_list(self.rig, piece, |rig, list| {
            let host = &mut rig.hosts[card];
            Ok(match direction {
                Direction::ToDevice => host.write(block, list),
                Direction::FromDevice | Direction::Bidirectional => host.read(block, list),
            })
        })?;
        let (mut now_in_memory, mut now_on_card) = (in_memory.clone(), on_card.clone());
        if let Some(phys) = phys {
            (self.rig.ram().read(phys, &mut now_in_memory)).map_err(Stop::refused)?;
        }
        image.read(block, &mut now_on_card)?;
        let untouched = now_in_memory == in_memory && now_on_card == on_card;
        let one = now_in_memory == now_on_card;
        match moved {
            Ok(()) if one => Ok(Got::Buffer),
            Ok(()) => Ok(Got::Elsewhere),
            Err(TransferError::Dma { .. }) if untouched => {
                self.events += self.rig.events()?.len() as u64;
                Ok(Got::Nowhere)
            }
            Err(TransferError::Dma { .. }) => Err(Stop::Defect(
                "a use of an old address was stopped, and data moved all the same".to_owned(),
            )),
            Err(TransferError::Qemu(error)) => Err(Stop::Qemu(error)),
            Err(error) => Err(Stop::refused(error)),
        }
    }

    /// Flushes, and uses the latest old addresses: none may get through.
    fn after_flush(&mut self) -> Result<u64, Stop> {
        for lane in &self.lanes {
            lane.ground.drain(self.rig)?;
        }
        // Parked buffers came back.
        let before = self.stale;
        self.probe_returned()?;
        if self.stale != before {
            let what = "the device reached a buffer that came back from the last flush";
            return Err(Stop::Defect(what.to_owned()));
        }
        let mut probes = 0;
        for (card, iova) in std::mem::take(&mut self.old) {
            if self.kind != Kind::Mapped {
                break;
            }
            probes += 1;
            for direction in [Direction::ToDevice, Direction::FromDevice] {
                if self.probe(card, iova, None, direction)? != Got::Nowhere {
                    let what = format!("the device reached {iova} after the last flush");
                    return Err(Stop::Defect(what));
                }
            }
        }
        Ok(probes)
    }
}

/// A mapped buffer must be reachable.
fn arrived(rig: &Rig, moved: Result<(), TransferError>) -> Result<(), Stop> {
    match moved {
        Ok(()) => Ok(()),
        Err(TransferError::Qemu(error)) => Err(Stop::Qemu(error)),
        Err(error) => {
            let events = rig.events()?;
            Err(Stop::Defect(format!(
                "the card could not use a mapped buffer: {error}; {events:?}"
            )))
        }
    }
}

fn lock(all: &Mutex<Vec<Returned>>) -> std::sync::MutexGuard<'_, Vec<Returned>> {
    // A list of buffers is whole whoever panicked.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn give_back(all: &Mutex<Vec<Returned>>, returned: Returned) {
    lock(all).push(returned);
}
