//! Which stream goes where.

use alloc::vec::Vec;

use dmabench_pgtable::TableMemory;
use dmabench_platform::sync::atomic::Ordering;

use super::{
    AttachError, Smmu, SmmuContext, UpdateKind,
    backend::whole_atc,
    setup::Tables,
    writer::{EntryKind, update_entry},
};
use crate::{
    SmmuHost,
    format::{Command, RawCommand, SteFields, check_ste},
};

/// What becomes of a stream's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamTarget {
    /// They are aborted, without an event.
    Abort,
    /// They pass untranslated.
    Bypass,
    /// They are translated by a context.
    Context(SmmuContext),
}

/// Whether a device may ask for translations and keep them (ATS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtsUse {
    /// It may not: `EATS` = 0.
    #[default]
    Off,
    /// It may: `EATS` = 1. The embedder turns ATS on in the device after
    /// attaching, and off before the next change.
    Full,
}

/// A stream that was ever attached.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Contexts that the SMMU may use for it: one, or, after an update that
    /// failed, also those before.
    holds: Vec<u32>,
    /// The last update failed half-way.
    unsure: bool,
    ats: bool,
}

/// What went wrong on the way to the SMMU.
enum SyncFailed {
    Queue(crate::queue::QueueError),
    Wait(crate::queue::WaitError),
}

impl From<SyncFailed> for AttachError {
    fn from(failed: SyncFailed) -> Self {
        match failed {
            SyncFailed::Queue(error) => AttachError::Queue(error),
            SyncFailed::Wait(error) => AttachError::NotSynced(error),
        }
    }
}

impl<H: SmmuHost, M: TableMemory> Smmu<H, M> {
    /// Attaches a stream, or switches it over. When this returns, no transaction
    /// of the stream uses the entry it had before.
    ///
    /// # Errors
    ///
    /// [`AttachError`]. Before `NotSynced` and `Queue` nothing has changed; with
    /// them the stream holds both contexts until a later call succeeds.
    pub fn attach(
        &self,
        sid: u32,
        target: StreamTarget,
        ats: AtsUse,
    ) -> Result<UpdateKind, AttachError> {
        let tables = &mut *self.tables.lock();
        if !tables.streams.contains(sid) {
            return Err(AttachError::StreamId { sid });
        }
        let (mut entry, context) = match target {
            StreamTarget::Abort => (SteFields::abort(), None),
            StreamTarget::Bypass => (SteFields::bypass(), None),
            StreamTarget::Context(context) => {
                let found = tables
                    .contexts
                    .get(&context.number)
                    .filter(|found| found.name == context)
                    .ok_or(AttachError::UnknownContext)?;
                (found.entry, Some(context.number))
            }
        };
        let ats = ats == AtsUse::Full && context.is_some();
        if ats {
            if !self.features.ats {
                return Err(AttachError::NoAts);
            }
            entry.eats = 1;
        }
        self.switch(tables, sid, entry, context, ats)
    }

    /// Aborts a stream's transactions and lets go of its context.
    ///
    /// # Errors
    ///
    /// [`AttachError::NotAttached`] for a stream that was never attached, else as
    /// [`attach`](Self::attach).
    pub fn detach(&self, sid: u32) -> Result<UpdateKind, AttachError> {
        let tables = &mut *self.tables.lock();
        if !tables.streams.contains(sid) {
            return Err(AttachError::StreamId { sid });
        }
        if !tables.attached.contains_key(&sid) {
            return Err(AttachError::NotAttached { sid });
        }
        self.switch(tables, sid, SteFields::abort(), None, false)
    }

    fn switch(
        &self,
        tables: &mut Tables<alloc::sync::Arc<M>>,
        sid: u32,
        entry: SteFields,
        context: Option<u32>,
        ats: bool,
    ) -> Result<UpdateKind, AttachError> {
        let ste = entry.encode();
        check_ste(&ste, &self.features).map_err(AttachError::BadSte)?;
        let (mut memory, made) = tables
            .streams
            .entry_or_make(sid)
            .map_err(|no| AttachError::NoMemory { bytes: no.bytes })?
            .ok_or(AttachError::StreamId { sid })?;
        let stream = tables.attached.entry(sid).or_default();
        if let Some(context) = context
            && !stream.holds.contains(&context)
        {
            // Held from before the first store on.
            stream.holds.push(context);
            if let Some(found) = tables.contexts.get_mut(&context) {
                found.streams += 1;
            }
        }
        if ats {
            self.note_ats(sid, context);
        }
        let force = made || stream.unsure;
        stream.unsure = true;
        let had_ats = stream.ats;
        stream.ats |= ats;
        // A level 1 descriptor that was just made may be cached as invalid; one
        // whose first sync failed as well.
        let forget = Command::CfgiSte { sid, leaf: !force }.encode();
        let update = update_entry(EntryKind::Ste, &mut memory, &ste.0, force, || {
            self.sync_behind(&[forget])
        })?;
        if had_ats {
            // What the device cached belongs to the entry before; the entry now
            // in force decides about new requests (3.9.1).
            self.sync_behind(&[whole_atc(sid)])?;
        }
        // The SMMU uses the new entry and nothing else.
        stream.unsure = false;
        stream.ats = ats;
        stream.holds.retain(|held| {
            let keep = Some(*held) == context;
            if !keep && let Some(found) = tables.contexts.get_mut(held) {
                found.streams -= 1;
            }
            keep
        });
        if had_ats && !ats {
            self.forget_ats(sid, None);
        } else if ats {
            self.forget_ats(sid, context);
        }
        Ok(update)
    }

    /// Queues commands and waits until they are done.
    fn sync_behind(&self, commands: &[RawCommand]) -> Result<(), SyncFailed> {
        // The entry's stores are visible before the SMMU reads it again: the
        // publisher's barrier comes after them.
        let ticket = self
            .commands
            .push_sync(commands)
            .map_err(SyncFailed::Queue)?;
        self.commands
            .sync_wait(ticket, self.config.timeout)
            .map_err(SyncFailed::Wait)
    }

    /// From now on invalidations of the context go to the device as well.
    fn note_ats(&self, sid: u32, context: Option<u32>) {
        let Some(context) = context else { return };
        let mut ats = self.ats.lock();
        if let Err(place) = ats.binary_search(&(context, sid)) {
            ats.insert(place, (context, sid));
        }
        self.ats_changed(&ats);
    }

    /// The next device behind `after` that keeps translations of a context. The
    /// lock is not held from one to the next: between them lie commands that may
    /// have to wait for room.
    pub(super) fn next_ats(&self, context: u32, after: Option<u32>) -> Option<u32> {
        let ats = self.ats.lock();
        let at = match after {
            None => ats.partition_point(|(number, _)| *number < context),
            Some(sid) => ats.partition_point(|known| *known <= (context, sid)),
        };
        let (number, sid) = ats.get(at)?;
        (*number == context).then_some(*sid)
    }

    /// The device no longer caches for any context but `keep`.
    fn forget_ats(&self, sid: u32, keep: Option<u32>) {
        let mut ats = self.ats.lock();
        ats.retain(|(context, stream)| *stream != sid || Some(*context) == keep);
        self.ats_changed(&ats);
    }

    fn ats_changed(&self, ats: &[(u32, u32)]) {
        self.ats_count.store(ats.len() as u32, Ordering::Release);
        self.commands.set_heal(self.heal_commands(ats));
    }

    /// Streams that hold a context, for diagnostics; `None` if it does not exist.
    pub fn streams_of(&self, context: SmmuContext) -> Option<usize> {
        let tables = self.tables.lock();
        let found = tables.contexts.get(&context.number)?;
        (found.name == context).then_some(found.streams)
    }
}
