//! The operations themselves, as an actor performs them, with the expected content before and
//! after.

pub mod attaching;
pub mod batches;
pub mod clock;
pub mod dead;
pub mod files;
pub mod headed;
pub mod letters;
pub mod picking;
pub mod priorities;
pub mod receiving;
pub mod runs;
pub mod saying;
pub mod sending;
pub mod settling;
pub mod snapshots;
pub mod snoozing;
pub mod switches;
pub mod terms;
