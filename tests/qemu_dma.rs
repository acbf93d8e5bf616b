//! Real SD-card transfers through QEMU's SMMUv3: driver, tables, domains and
//! flush queues as they are.
#![cfg(target_os = "linux")]

mod qemu_support;

use dmabench_dma::{Direction, Mapping, Mode};
use dmabench_flushq::BackendCounts;
use dmabench_platform::{Iova, PhysAddr, TimeNs};
use dmabench_smmu::{
    format::EventKind,
    qemu::{AdmaWidth, BLOCK_BYTES, QemuConfig, TransferError},
};
use qemu_support::{Machine, PAGE, Random, config, pattern, short, start};

const REQUEST_PAGES: u64 = 128;
const REQUEST: u64 = REQUEST_PAGES * PAGE;
const TOTAL: u64 = 8 << 20;

/// 128 single pages, each at an IOVA and a physical address of its own, in random
/// order.
fn scattered(
    machine: &Machine,
    port: usize,
    direction: Direction,
    random: &mut Random,
) -> Vec<(PhysAddr, Mapping)> {
    let port = &machine.ports[port];
    let mut pages: Vec<_> = (0..REQUEST_PAGES)
        .map(|_| port.buffer(machine.ram(), PAGE, direction))
        .collect();
    random.shuffle(&mut pages);
    pages
}

fn both_ways(name: &str, width: AdmaWidth) {
    let cards = [64 << 20, 4 << 30];
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&cards)) else {
        return;
    };
    let above = (Iova(1 << 40), Iova((1 << 40) + (1 << 36)));
    let machine = &mut Machine::new(
        qemu,
        || match width {
            AdmaWidth::Bits32 => config(Mode::Strict),
            AdmaWidth::Bits64 => config(Mode::Strict).aperture(above.0, above.1),
        },
        width,
    );
    let mut random = Random::new(1);
    for port in 0..2 {
        assert_eq!(machine.ports[port].host.is_high_capacity(), port == 1);
        let seed = 77 + port as u64;
        // The second stream shows that it has tables of its own.
        let total = if port == 0 { TOTAL } else { REQUEST };
        let image = machine.ports[port].host.image().clone();
        image.write(2048, &pattern(seed, 2048, total)).unwrap();
        for request in 0..total / REQUEST {
            let block = 2048 + request * REQUEST / BLOCK_BYTES;
            // From the card ...
            let pages = scattered(machine, port, Direction::FromDevice, &mut random);
            let pieces: Vec<_> = pages.iter().map(|(_, m)| (m.addr(), PAGE)).collect();
            assert_eq!(
                pieces.iter().all(|p| p.0.0 >> 32 != 0),
                width == AdmaWidth::Bits64
            );
            let list = machine.ports[port].list(&pieces);
            assert_eq!(list.descriptors(), 128);
            machine.ports[port].host.read(block, &list).unwrap();
            let mut got = vec![0; REQUEST as usize];
            for ((phys, _), part) in pages.iter().zip(got.chunks_mut(PAGE as usize)) {
                machine.ram().read(*phys, part).unwrap();
            }
            assert!(
                got == pattern(seed, block, REQUEST),
                "read {request} differs"
            );
            free(machine, port, pages);
            // ... and to another place on it.
            let pages = scattered(machine, port, Direction::ToDevice, &mut random);
            let block = block + (TOTAL + TOTAL / 2) / BLOCK_BYTES;
            let data = pattern(seed + 9, block, REQUEST);
            for ((phys, _), part) in pages.iter().zip(data.chunks(PAGE as usize)) {
                machine.ram().write(*phys, part).unwrap();
            }
            let pieces: Vec<_> = pages.iter().map(|(_, m)| (m.addr(), PAGE)).collect();
            let list = machine.ports[port].list(&pieces);
            machine.ports[port].host.write(block, &list).unwrap();
            free(machine, port, pages);
        }
        let block = 2048 + (TOTAL + TOTAL / 2) / BLOCK_BYTES;
        let mut written = vec![0; total as usize];
        image.read(block, &mut written).unwrap();
        assert!(
            written == pattern(seed + 9, block, total),
            "the image differs"
        );
        image.read(2048, &mut written).unwrap();
        assert!(
            written == pattern(seed, 2048, total),
            "what was read has changed"
        );
    }
    assert_eq!(machine.events(), []);
}

fn free(machine: &Machine, port: usize, pages: Vec<(PhysAddr, Mapping)>) {
    for (phys, mapping) in pages {
        machine.ports[port].domain().unmap(mapping).unwrap();
        machine.ram().free(phys, PAGE).unwrap();
    }
}

#[test]
fn eight_mib_each_way_at_scattered_addresses_below_4_gib() {
    both_ways(
        "eight_mib_each_way_at_scattered_addresses_below_4_gib",
        AdmaWidth::Bits32,
    );
}

#[test]
fn eight_mib_each_way_at_scattered_addresses_above_4_gib() {
    both_ways(
        "eight_mib_each_way_at_scattered_addresses_above_4_gib",
        AdmaWidth::Bits64,
    );
}

/// One block from the card to `addr` of port 0.
fn read_block(machine: &mut Machine, block: u64, addr: Iova) -> Result<(), TransferError> {
    let port = &mut machine.ports[0];
    let list = port.list(&[(addr, BLOCK_BYTES)]);
    port.host.read(block, &list)
}

/// One block from `addr` of port 0 to the card.
fn write_block(machine: &mut Machine, block: u64, addr: Iova) -> Result<(), TransferError> {
    let port = &mut machine.ports[0];
    let list = port.list(&[(addr, BLOCK_BYTES)]);
    port.host.write(block, &list)
}

fn block_at(machine: &Machine, phys: PhysAddr) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    machine.ram().read(phys, &mut bytes).unwrap();
    bytes
}

#[test]
fn s1_strict_unmap_then_dma_faults_and_touches_nothing() {
    let name = "s1_strict_unmap_then_dma_faults_and_touches_nothing";
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[1 << 20])) else {
        return;
    };
    let machine = &mut Machine::new(qemu, || config(Mode::Strict), AdmaWidth::Bits32);
    let image = machine.ports[0].host.image().clone();
    image.write(0, &pattern(5, 0, 4 * BLOCK_BYTES)).unwrap();
    let sid = machine.ports[0].host.stream_id();
    assert_eq!(sid, 0x20);

    // The card writes to memory.
    let (phys, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let addr = Iova(mapping.addr().0 + 0x400);
    read_block(machine, 1, addr).unwrap();
    assert_eq!(
        block_at(machine, PhysAddr(phys.0 + 0x400)),
        pattern(5, 1, BLOCK_BYTES)
    );
    machine.ports[0].domain().unmap(mapping).unwrap();
    let secret = [0xa5; BLOCK_BYTES as usize];
    machine
        .ram()
        .write(PhysAddr(phys.0 + 0x400), &secret)
        .unwrap();
    let error = read_block(machine, 2, addr).unwrap_err();
    assert!(
        matches!(error, TransferError::Dma { state: 3, .. }),
        "{error}"
    );
    let fault = machine.events();
    assert_eq!(
        fault.iter().map(short).collect::<Vec<_>>(),
        [(EventKind::Translation, sid, addr.0 & !(PAGE - 1), false)]
    );
    assert_eq!(fault[0].address, addr, "to the byte");
    assert_eq!(block_at(machine, PhysAddr(phys.0 + 0x400)), secret);

    // The card reads memory.
    let (phys, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::ToDevice);
    let addr = mapping.addr();
    machine
        .ram()
        .write(phys, &pattern(6, 3, BLOCK_BYTES))
        .unwrap();
    write_block(machine, 3, addr).unwrap();
    machine.ports[0].domain().unmap(mapping).unwrap();
    machine.ram().write(phys, &secret).unwrap();
    write_block(machine, 3, addr).unwrap_err();
    let fault: Vec<_> = machine.events().iter().map(short).collect();
    assert_eq!(fault, [(EventKind::Translation, sid, addr.0, true)]);
    let mut on_card = vec![0; BLOCK_BYTES as usize];
    image.read(3, &mut on_card).unwrap();
    assert_eq!(
        on_card,
        pattern(6, 3, BLOCK_BYTES),
        "the secret stayed in memory"
    );

    // And the next one works.
    let (phys, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    read_block(machine, 1, mapping.addr()).unwrap();
    assert_eq!(block_at(machine, phys), pattern(5, 1, BLOCK_BYTES));
    machine.ports[0].domain().unmap(mapping).unwrap();
}

#[test]
fn l1_lazy_access_is_stale_until_the_flush_and_faults_after_it() {
    let name = "l1_lazy_access_is_stale_until_the_flush_and_faults_after_it";
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[1 << 20])) else {
        return;
    };
    let machine = &mut Machine::new(qemu, || config(Mode::lazy()), AdmaWidth::Bits32);
    let sid = machine.ports[0].host.stream_id();
    let image = machine.ports[0].host.image().clone();
    image.write(0, &pattern(5, 0, 8 * BLOCK_BYTES)).unwrap();

    let (written, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    let to_memory = mapping.addr();
    read_block(machine, 0, to_memory).unwrap();
    machine.ports[0].domain().unmap(mapping).unwrap();
    let (secret, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::ToDevice);
    let from_memory = mapping.addr();
    write_block(machine, 4, from_memory).unwrap();
    machine.ports[0].domain().unmap(mapping).unwrap();

    // The buffers belong to someone else by now; the device goes on.
    let domain = machine.ports[0].domain();
    assert_eq!(domain.translate(to_memory), None);
    assert_eq!(domain.stats().queued, 2);
    machine
        .ram()
        .write(secret, &pattern(6, 5, BLOCK_BYTES))
        .unwrap();
    read_block(machine, 1, to_memory).unwrap();
    assert_eq!(
        block_at(machine, written),
        pattern(5, 1, BLOCK_BYTES),
        "changed by the device"
    );
    write_block(machine, 5, from_memory).unwrap();
    let mut on_card = vec![0; BLOCK_BYTES as usize];
    image.read(5, &mut on_card).unwrap();
    assert_eq!(on_card, pattern(6, 5, BLOCK_BYTES), "leaked to the card");
    assert_eq!(machine.events(), []);

    // The timer: 10 ms after the first poll that sees the entries.
    let domain = machine.ports[0].domain();
    domain.poll(TimeNs(1_000_000)).unwrap();
    let due = domain.next_deadline().unwrap();
    assert_eq!(due, TimeNs(11_000_000));
    assert_eq!(domain.poll(due).unwrap().released, 2);
    read_block(machine, 2, to_memory).unwrap_err();
    write_block(machine, 6, from_memory).unwrap_err();
    let faults: Vec<_> = machine.events().iter().map(short).collect();
    let kind = EventKind::Translation;
    assert_eq!(
        faults,
        [
            (kind, sid, to_memory.0, false),
            (kind, sid, from_memory.0, true)
        ]
    );
    assert_eq!(block_at(machine, written), pattern(5, 1, BLOCK_BYTES));
}

#[test]
fn a_read_only_mapping_denies_the_device_writes() {
    let name = "a_read_only_mapping_denies_the_device_writes";
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[1 << 20])) else {
        return;
    };
    let machine = &mut Machine::new(qemu, || config(Mode::Strict), AdmaWidth::Bits64);
    let sid = machine.ports[0].host.stream_id();
    let (phys, mapping) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::ToDevice);
    machine.ram().write(phys, &[7; 512]).unwrap();
    read_block(machine, 0, mapping.addr()).unwrap_err();
    let faults: Vec<_> = machine.events().iter().map(short).collect();
    assert_eq!(
        faults,
        [(EventKind::Permission, sid, mapping.addr().0, false)]
    );
    assert_eq!(block_at(machine, phys), [7; 512]);
    machine.ports[0].domain().unmap(mapping).unwrap();
}

/// Requests of `pages` pages in each mode: what the counting backend, the
/// driver's queue and QEMU's trace say they took.
#[test]
fn commands_counted_here_are_those_qemu_executed() {
    let name = "commands_counted_here_are_those_qemu_executed";
    for mode in [Mode::Strict, Mode::lazy()] {
        let qemu = QemuConfig::default()
            .with_cards(&[1 << 20, 1 << 20])
            .with_trace();
        let Some(qemu) = start(name, qemu) else {
            return;
        };
        let machine = &mut Machine::new(qemu, || config(mode), AdmaWidth::Bits32);
        let _bring_up = machine.traced();
        let before: Vec<_> = machine.ports.iter().map(|p| p.counting.counts()).collect();
        let queued = machine.driver.command_queue().queued();
        let mut requests = 0;
        for pages in (1..=40).chain([64, 127, 128]) {
            for port in 0..2 {
                let direction = Direction::FromDevice;
                let (phys, mapping) =
                    machine.ports[port].buffer(machine.ram(), pages * PAGE, direction);
                let list = machine.ports[port].list(&[(mapping.addr(), pages * PAGE)]);
                machine.ports[port].host.read(0, &list).unwrap();
                machine.ports[port].domain().unmap(mapping).unwrap();
                machine.ram().free(phys, pages * PAGE).unwrap();
                requests += 1;
            }
        }
        for port in &machine.ports {
            port.domain().drain().unwrap();
        }
        let counts: Vec<_> = (machine.ports.iter().zip(before))
            .map(|(port, before)| port.counting.counts() - before)
            .collect();
        let sum = |of: fn(&BackendCounts) -> u64| counts.iter().map(of).sum::<u64>();
        let syncs = sum(|c| c.syncs);
        let commands = sum(|c| c.commands());
        let traced = machine.traced();
        assert_eq!(
            traced.command("SMMU_CMD_SYNC"),
            syncs,
            "{mode:?}: {traced:?}"
        );
        assert_eq!(traced.invalidations(), commands, "{mode:?}: {traced:?}");
        assert_eq!(traced.all_commands(), syncs + commands);
        assert_eq!(
            machine.driver.command_queue().queued() - queued,
            syncs + commands
        );
        match mode {
            Mode::Strict => assert_eq!(syncs, requests, "one for each request"),
            _ => assert_eq!(syncs, 2, "one for each address space"),
        }
        assert!(traced.events.is_empty());
    }
}

#[test]
fn each_stream_has_tables_of_its_own() {
    let name = "each_stream_has_tables_of_its_own";
    let Some(qemu) = start(name, QemuConfig::default().with_cards(&[1 << 20, 1 << 20])) else {
        return;
    };
    let machine = &mut Machine::new(qemu, || config(Mode::Strict), AdmaWidth::Bits32);
    let sids: Vec<_> = machine.ports.iter().map(|p| p.host.stream_id()).collect();
    assert_eq!(sids, [0x20, 0x28]);
    // The same address in both address spaces, and one that is only in the first.
    let buffers: Vec<_> = (0..2)
        .map(|port| machine.ports[port].buffer(machine.ram(), PAGE, Direction::FromDevice))
        .collect();
    let [(one, mine), (two, theirs)] = &buffers[..] else {
        unreachable!("two of them");
    };
    assert_eq!(mine.addr(), theirs.addr());
    let (_, only) = machine.ports[0].buffer(machine.ram(), PAGE, Direction::FromDevice);
    for port in 0..2 {
        let image = machine.ports[port].host.image().clone();
        image
            .write(0, &pattern(port as u64, 0, BLOCK_BYTES))
            .unwrap();
        let list = machine.ports[port].list(&[(mine.addr(), BLOCK_BYTES)]);
        machine.ports[port].host.read(0, &list).unwrap();
    }
    assert_eq!(block_at(machine, *one), pattern(0, 0, BLOCK_BYTES));
    assert_eq!(block_at(machine, *two), pattern(1, 0, BLOCK_BYTES));
    read_block(machine, 0, only.addr()).unwrap();
    let list = machine.ports[1].list(&[(only.addr(), BLOCK_BYTES)]);
    machine.ports[1].host.read(0, &list).unwrap_err();
    let faults: Vec<_> = machine.events().iter().map(short).collect();
    assert_eq!(
        faults,
        [(EventKind::Translation, 0x28, only.addr().0, false)]
    );
    machine.ports[0].domain().unmap(only).unwrap();
    for (port, (_, mapping)) in buffers.into_iter().enumerate() {
        machine.ports[port].domain().unmap(mapping).unwrap();
    }
}
