//! `cargo xtask simulate`: a thousand hosts and their cluster, under crashes and partitions, with accounts.
//!
//! Hosts have queues in shared memory; bridges carry messages to partitions that three servers each have a copy of; workers pull from
//! there and publish answers, of which the first wins. All of it is a model, in virtual time, drawn from one seed: it shows whether
//! the parts' guarantees, put together, keep what they promise, and in which account a message is when they do not. It
//! shows nothing about code: for that there are `scenarios`, `sweep` and `torture`.
//!
//! Read `plan` (sizes and times), `event`, `world` (what happens), then the parts: `senders`, `bridge`, `worker`, `local_queue`,
//! `cluster`, `replica`, `stream`; what goes wrong: `network`, `faults`; who judges: `ledger`. `mutation` breaks the model.

mod agenda;
mod bridge;
mod cluster;
mod desk;
mod event;
mod faults;
mod host;
mod ledger;
mod local_queue;
mod mutation;
mod network;
mod plan;
mod replica;
mod report;
mod senders;
mod stream;
#[cfg(test)]
mod tests;
mod worker;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use mutation::Break;
use plan::Plan;
use report::Report;
use world::World;

use crate::ending::end;

/// How large, how long, and drawn from what.
#[derive(Debug, Args)]
pub struct Options {
    /// How many hosts
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hosts: u32,

    /// How many servers, three partitions on each [default: one for a hundred hosts, at least three]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=250))]
    servers: Option<u8>,

    /// For how long there are new messages and trouble, in virtual time
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// New messages of each host in a second
    #[arg(long, default_value_t = 3.0, value_name = "N")]
    rate: f64,

    /// What chance is drawn from: the same seed gives the same result
    #[arg(long, default_value_t = 1, value_name = "X")]
    seed: u64,

    /// Do one thing wrong, which must be noticed
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<Break>,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let report = simulate(options.plan());
    if !options.json {
        eprintln!("{:.1} s of real time", started.elapsed().as_secs_f64());
    }
    end(options.json, &report, &report, report.is_clean())
}

/// Lets it all happen, then does the accounts.
fn simulate(plan: Plan) -> Report {
    let mut world = World::new(plan);
    world.run();
    Report::of(world)
}

impl Options {
    fn plan(&self) -> Plan {
        let mut plan = Plan::new(self.hosts, self.seconds, self.seed);
        if let Some(servers) = self.servers {
            (plan.servers, plan.partitions) = (servers, 3 * u16::from(servers));
        }
        Plan {
            rate: self.rate,
            broken: self.broken,
            ..plan
        }
    }
}
