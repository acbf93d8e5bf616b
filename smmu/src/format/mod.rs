//! What an SMMUv3 reads and writes: commands, stream table entries, context
//! descriptors, level 1 descriptors, event records, registers; each as a type
//! with an encoder and a decoder, and the rules that make an encoding illegal.
//!
//! Section numbers are those of Arm IHI 0070 G.b. All structures are
//! little-endian; an array of 64-bit words holds a structure's bits `[63:0]` in
//! its first element. Arrays here are plain values: whoever stores them as bytes
//! calls `to_le` on each word.
//!
//! The legality checks are functions of [`Features`], the contents of the ID
//! registers, and apply the rules of SMMUv3.1 and later to the Non-secure
//! programming interface with VMSAv8-64 tables.

mod bits;
mod cd;
mod cd_check;
mod command;
mod command_check;
mod event;
pub(crate) mod features;
mod l1;
pub mod registers;
mod ste;
mod ste_check;
mod tlbi;
mod used;

pub use cd::{Cd, CdFields, TableHalf};
pub use cd_check::{CdIllegal, StreamContext, check_cd};
pub use command::{Command, RawCommand, Resume, SyncSignal};
pub use command_check::{CommandIssue, check_command};
pub use event::{Event, EventClass, EventKind, RawEvent};
pub use features::{Features, IdRegisters, StallModel, TtEndian};
pub use l1::{L1Cd, L1Std, L1StdError};
pub use ste::{S1Dss, Stage2Fields, Ste, SteConfig, SteFields};
pub use ste_check::{SteIllegal, check_ste};
pub use tlbi::{TlbiAddress, atc_span, tg_code, tg_granule};
pub use used::{used_by_cd, used_by_ste};
