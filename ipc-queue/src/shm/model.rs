//! The ring under two model checkers: the same code, on words that record every access.
//!
//! `explorer` goes through the orders in which the accesses of a few processes can be made, one after the other, and kills
//! processes between any two; `scenarios` says which processes. `weak` runs the ring under loom, for what
//! weaker memory orders allow, and `keys` the table of keys with it. What must hold is said in `ledger`, at each step, and in `judge`, about what is
//! left. `mutants.toml` beside the manifest lists small wrong changes, each of which some test here must catch.
//!
//! Not modelled: payload bytes (only who may touch them when), waiting (`ipc_shm::wait`), damaged memory.

mod actor;
mod explorer;
mod judge;
mod keys;
mod ledger;
mod reasons;
mod scenarios;
mod weak;
mod world;
