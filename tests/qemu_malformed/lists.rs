//! Descriptor lists with holes in them, and transfers beyond the card.

use dmabench_platform::{Iova, PhysAddr};
use dmabench_smmu::{
    format::EventKind,
    qemu::{BLOCK_BYTES, TransferError},
};

use crate::{
    qemu_support::{PAGE, pattern, short},
    rig::{DATA, Rig},
};

#[test]
fn an_unmapped_descriptor_table_is_a_fault_at_the_descriptor() {
    let name = "an_unmapped_descriptor_table_is_a_fault_at_the_descriptor";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    rig.works();
    let list = rig.adma.fill([(DATA, 512)]).unwrap().at(Iova(0x66_0000));
    let error = rig.host.read(0, &list).unwrap_err();
    assert!(
        matches!(error, TransferError::Dma { state: 1, .. }),
        "{error:?}"
    );
    let events = rig.events();
    assert!(!events.is_empty());
    let event = (
        EventKind::Translation,
        rig.host.stream_id(),
        0x66_0000,
        true,
    );
    assert!(events.iter().all(|e| short(e) == event), "{events:?}");
    rig.works();
}

#[test]
fn a_fault_inside_a_list_is_reported_and_the_next_transfer_works() {
    let name = "a_fault_inside_a_list_is_reported_and_the_next_transfer_works";
    let Some(mut rig) = Rig::attached(name) else {
        return;
    };
    let data = pattern(3, 0, 16 * BLOCK_BYTES);
    rig.host.image().write(0, &data).unwrap();
    let half = BLOCK_BYTES / 2;
    // The fault in each place of a list of 8: first, inside, beyond what the
    // command itself moves, last.
    for place in [0, 2, 6, 7] {
        let mut pieces: Vec<_> = (0..8).map(|i| (Iova(DATA.0 + i * 512), 512)).collect();
        pieces[place].0 = Iova(0x77_0000 + place as u64 * PAGE);
        rig.qemu.ram().write(rig.data, &[0; 4096]).unwrap();
        let error = rig.read(&pieces).unwrap_err();
        let at_end = if place == 7 { 3 } else { 0 };
        assert!(
            matches!(error, TransferError::Dma { state, .. } if state == at_end),
            "{place}: {error:?}"
        );
        let events = rig.events();
        let page = 0x77_0000 + place as u64 * PAGE;
        let event = (EventKind::Translation, rig.host.stream_id(), page, false);
        assert!(
            !events.is_empty() && events.iter().all(|e| short(e) == event),
            "{events:?}"
        );
        let mut got = vec![0; 4096];
        rig.qemu.ram().read(rig.data, &mut got).unwrap();
        let moved = place * 512;
        assert_eq!(
            got[..moved],
            data[..moved],
            "the blocks before it were moved"
        );
        assert!(
            got[moved..].iter().all(|b| *b == 0),
            "and nothing behind it"
        );
        rig.works();
        rig.host.image().write(0, &data).unwrap();
    }
    // Pieces that are not whole blocks.
    let pieces = [
        (Iova(DATA.0), half),
        (Iova(DATA.0 + 1024), half),
        (Iova(DATA.0 + 2048), 512),
    ];
    rig.read(&pieces).unwrap();
    let mut got = [0; 512];
    rig.qemu
        .ram()
        .read(PhysAddr(rig.data.0 + 1024), &mut got)
        .unwrap();
    assert_eq!(got[..256], data[256..512]);
}

#[test]
fn blocks_beyond_the_card_are_refused() {
    let Some(mut rig) = Rig::attached("blocks_beyond_the_card_are_refused") else {
        return;
    };
    let blocks = rig.host.blocks();
    assert_eq!(blocks, 2048);
    let list = rig.adma.fill([(DATA, 1024)]).unwrap();
    for block in [blocks - 1, blocks, u64::MAX] {
        let beyond = TransferError::BeyondCard { block, blocks: 2 };
        assert_eq!(rig.host.read(block, &list), Err(beyond.clone()));
        assert_eq!(rig.host.write(block, &list), Err(beyond));
    }
    rig.host.read(blocks - 2, &list).unwrap();
    rig.works();
}
