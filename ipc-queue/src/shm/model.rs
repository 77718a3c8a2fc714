//! The ring under a model checker: the same code, every order of its shared accesses, a death between any two.
mod actor;
mod explorer;
mod judge;
mod ledger;
mod scenarios;
mod weak;
mod world;
