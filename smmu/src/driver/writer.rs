//! Changing a stream table entry or context descriptor under the SMMU's eyes
//! (3.21.3): word by word, so that at every moment it reads the old entry, the
//! new one, or one that is not valid.

use crate::format::{Cd, Ste, used_by_cd, used_by_ste};

/// What kind of entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A stream table entry.
    Ste,
    /// A context descriptor.
    Cd,
}

/// How an update went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    /// The entry was as it should be.
    Unchanged,
    /// At every moment the old or the new entry was in force.
    Hitless,
    /// The entry was not valid before, after, or for a time between.
    Broke,
}

/// An entry in memory, 64-bit word by 64-bit word. Each store is one access that
/// the SMMU sees whole or not at all.
pub trait EntryMemory {
    /// Word `index`, 0 to 7.
    fn load(&self, index: usize) -> u64;
    /// Stores word `index`.
    fn store(&mut self, index: usize, value: u64);
}

type Words = [u64; 8];

impl EntryKind {
    fn used(self, words: &Words) -> Words {
        match self {
            EntryKind::Ste => used_by_ste(&Ste(*words)),
            EntryKind::Cd => used_by_cd(&Cd(*words)),
        }
    }

    const fn valid(self) -> u64 {
        match self {
            EntryKind::Ste => 1,
            EntryKind::Cd => 1 << 31,
        }
    }

    /// Bits that may change while both entries use them. `STE.EATS` = 1: whoever
    /// turns ATS on or off at the device does so while its stream uses neither
    /// value; not so if either side is split-stage (2), whose meaning depends on
    /// the rest. `STE.MEV`: only merges events.
    fn indifferent(self, now: &Words, target: &Words) -> Words {
        let mut bits = [0; 8];
        if self == EntryKind::Ste {
            bits[1] = 1 << 19;
            if (now[1] | target[1]) & 1 << 29 == 0 {
                bits[1] |= 1 << 28;
            }
        }
        bits
    }
}

/// How to get from one entry to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// No used bit differs once `prepared` is there.
    Quiet { prepared: Words },
    /// After `prepared`, one word turns one entry into the other.
    OneWord { prepared: Words, word: usize },
    /// Two words or more matter: the entry has to be invalid meanwhile.
    Break,
}

fn plan(kind: EntryKind, now: &Words, target: &Words) -> Plan {
    let (used_now, used_then) = (kind.used(now), kind.used(target));
    let indifferent = kind.indifferent(now, target);
    let mut prepared = *now;
    let mut decisive = None;
    let mut count = 0;
    for word in 0..8 {
        // What the entry in force does not use can be as the target wants it.
        let fixed = used_now[word] & !(indifferent[word] & used_then[word]);
        prepared[word] = (now[word] & fixed) | (target[word] & !fixed);
        if (prepared[word] ^ target[word]) & used_then[word] != 0 {
            decisive = Some(word);
            count += 1;
        }
    }
    match (decisive, count) {
        (None, _) => Plan::Quiet { prepared },
        (Some(word), 1) => {
            // It changes in one go, not in two.
            prepared[word] = now[word];
            Plan::OneWord { prepared, word }
        }
        _ => Plan::Break,
    }
}

/// Writes `target` over an entry. `sync` is called where the SMMU must have
/// forgotten what it read before: it makes the stores visible, queues the
/// `CMD_CFGI` and waits for a `CMD_SYNC`. With `force` it is called at least
/// once: after an update that failed, the memory may be ahead of what the SMMU
/// knows.
///
/// # Errors
///
/// Those of `sync`, at once. The entry is then at some step of the way; calling
/// again, with the same target or another and `force`, goes on from there.
pub fn update_entry<E>(
    kind: EntryKind,
    memory: &mut dyn EntryMemory,
    target: &Words,
    force: bool,
    mut sync: impl FnMut() -> Result<(), E>,
) -> Result<UpdateKind, E> {
    let now: Words = core::array::from_fn(|word| memory.load(word));
    let valid = kind.valid();
    let mut synced = false;
    let mut store = |memory: &mut dyn EntryMemory, words: &Words| -> Result<(), E> {
        if write(memory, words) {
            synced = true;
            sync()?;
        }
        Ok(())
    };
    let mut broke = now[0] & target[0] & valid == 0;
    match plan(kind, &now, target) {
        Plan::Quiet { prepared } => {
            store(memory, &prepared)?;
        }
        Plan::OneWord { prepared, word } => {
            store(memory, &prepared)?;
            let mut decided = prepared;
            decided[word] = target[word];
            store(memory, &decided)?;
        }
        Plan::Break => {
            broke = true;
            let mut words = now;
            words[0] = 0;
            store(memory, &words)?;
            words = *target;
            words[0] = 0;
            store(memory, &words)?;
        }
    }
    // The rest is not used by the target, or is its valid bit.
    store(memory, target)?;
    if !synced {
        if force {
            sync()?;
        }
        return Ok(UpdateKind::Unchanged);
    }
    Ok(if broke {
        UpdateKind::Broke
    } else {
        UpdateKind::Hitless
    })
}

/// Stores what differs. Whether anything did.
fn write(memory: &mut dyn EntryMemory, words: &Words) -> bool {
    let mut changed = false;
    for (word, value) in words.iter().enumerate() {
        if memory.load(word) != *value {
            memory.store(word, *value);
            changed = true;
        }
    }
    changed
}

#[cfg(all(test, not(any(loom, shuttle))))]
#[path = "writer_tests.rs"]
mod tests;
