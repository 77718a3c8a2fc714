//! Compares this project's queues with references and peers: `cargo xtask bench`.
//!
//! Read `work` (what is done), `subject` (by which queue), `repetition` (one measurement),
//! `schedule` (their order), then `report`.

mod child;
mod clock;
mod machine;
mod memory;
mod own;
mod part;
mod payload;
mod play;
mod player;
mod probe;
mod repetition;
mod report;
mod schedule;
mod stage;
mod statistics;
mod storm;
mod subject;
mod subjects;
mod switches;
mod weight;
mod work;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};

use own::silence::{CLUSTER, SILENCE};
use player::Player;
use report::Report;
use schedule::{Plan, Row, Summary};
use work::{Placement, Times, Work};

/// Compares the queues with their peers: two real processes each, in turn, medians with their
/// range.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Run for under two minutes: shorter and fewer repetitions
    #[arg(long)]
    quick: bool,

    /// Only rows whose work or subject contains this ("->" for "→"), or one of several with commas
    /// between them; if repeated, all must match
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page with tables and plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write tables and plots into the performance.md of this folder
    #[arg(long, value_name = "FOLDER")]
    docs: Option<PathBuf>,

    /// Number of good repetitions of each row [default: 7, quick: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: Option<u16>,

    /// Milliseconds to measure in each repetition [default: 100, quick: 20]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    time: Option<u64>,

    /// Let the kernel place all sides
    #[arg(long)]
    unpinned: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One side of a repetition
    #[command(hide = true)]
    Part { orders: String },
    /// One side of a kill storm
    #[command(hide = true)]
    StormPart { orders: String },
    /// Measurements of this project's queue alone
    #[command(hide = true)]
    OwnPart,
    /// A helper process for these measurements
    #[command(hide = true)]
    OwnHelper { helper: own::Helper },
    /// A server at a socket, for the measurements of served queues
    #[command(hide = true)]
    SocketHelper {
        served: own::sockets::Served,
        path: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Part { orders }) => child::run(orders),
        Some(Command::StormPart { orders }) => storm::run(orders),
        Some(Command::OwnPart) => own::run(),
        Some(Command::OwnHelper { helper }) => own::help(*helper),
        Some(Command::SocketHelper { served, path }) => own::sockets::serve(*served, path),
        None => run(&cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let started = Instant::now();
    let players = subjects::all();
    let mut rows = rows(cli, &players);
    let plan = cli.plan();
    let mut others = schedule::run(&mut rows, &plan);
    let (storms, mut failures) = storms(cli, &players);
    others.extend(storms);
    let alone: [(&str, &str, Measure); 4] = [
        (OWN, "shm", own::measure),
        (SOCKETS, "unix", own::sockets::measure),
        (SILENCE, CLUSTER, own::silence::measure),
        (WEIGHT, "shm", weight::measure),
    ];
    for (name, subject, measure) in alone {
        if cli.quick || !cli.wants(name, subject) {
            continue;
        }
        match measure() {
            Ok(rows) => others.extend(rows),
            Err(error) => failures.push((name.to_owned(), format!("{error:#}"))),
        }
    }
    let mut report = Report::of(&rows, &plan, others, &players);
    report.skipped.extend(failures);
    report.machine = machine::describe(started.elapsed());
    print!("{}", report::text::render(&report));
    if let Some(file) = &cli.json {
        report::json::write(&report, file)?;
    }
    if let Some(file) = &cli.html {
        report::html::write(&report, file)?;
    }
    if let Some(folder) = &cli.docs {
        report::docs::write(&report, folder)?;
    }
    Ok(())
}

/// Kills a receiver again and again. Left out of quick runs, unless requested.
fn storms(cli: &Cli, players: &[Box<dyn Player>]) -> (Vec<Summary>, Vec<(String, String)>) {
    let takes_part = |player: &&dyn Player| {
        let can = player.can_be_opened_again() && player.does(storm::ONE_WAY);
        can && player.missing().is_none() && cli.wants(STORM, &player.name())
    };
    if cli.quick && !cli.only.iter().any(|only| STORM.contains(&only[..])) {
        return Default::default();
    }
    let players: Vec<&dyn Player> = players
        .iter()
        .map(AsRef::as_ref)
        .filter(takes_part)
        .collect();
    let kills = if cli.quick { 50 } else { 300 };
    storm::all(&players, kills)
}

/// The name for `--only` of the measurements of this project's queue alone.
const OWN: &str = "scale idle recovery footprint";
/// The name for `--only` of the measurements of served queues.
const SOCKETS: &str = "socket: ";
/// The name for `--only` of the cost of depending on it.
const WEIGHT: &str = "weight";
type Measure = fn() -> Result<Vec<Summary>>;

const STORM: &str = "kill storm";

fn rows<'a>(cli: &Cli, players: &'a [Box<dyn Player>]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    let mut works = Work::all(cli.quick);
    if cli.unpinned {
        works.retain(|(_, placement)| *placement != Placement::OneCore);
        works.iter_mut().for_each(|it| it.1 = Placement::Unpinned);
        let mut seen = HashSet::new();
        works.retain(|it| seen.insert(*it));
    }
    for (work, placement) in works {
        for player in players {
            let is_measured = player.does_crowds() || !work.is_crowded();
            let takes_part = is_measured && player.does(work) && player.missing().is_none();
            if takes_part && cli.wants(&work.title(placement), &player.name()) {
                rows.push(Row::new(work, player.as_ref(), placement));
            }
        }
    }
    rows
}

/// The budget of a quick run. The rest of the two minutes is for starting and for the reports.
const QUICK: Duration = Duration::from_secs(100);

impl Cli {
    fn wants(&self, work: &str, subject: &str) -> bool {
        let matches = |only: &str| work.contains(only) || subject.contains(only);
        self.only
            .iter()
            .all(|only| only.replace("->", "→").split(',').any(matches))
    }

    fn plan(&self) -> Plan {
        let (repetitions, measured) = if self.quick { (5, 20) } else { (7, 100) };
        let repetitions = self.repetitions.map_or(repetitions, usize::from);
        let measured = Duration::from_millis(self.time.unwrap_or(measured));
        Plan {
            repetitions,
            rounds: 2 * repetitions,
            budget: self.quick.then_some(QUICK),
            times: Times {
                warm_up: measured / 5,
                measured,
            },
        }
    }
}
