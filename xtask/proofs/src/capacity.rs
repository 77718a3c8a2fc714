//! `cargo xtask capacity`: measures one host over each transport, and one and three servers on this
//! machine. With `--docs` it writes its figures into docs/scaling.md.
//!
//! Everything is measured through the public queues, between processes, as a median of repetitions.
//! Servers are real ones on 127.0.0.1 and share the cores with their clients. The rates are those
//! of this machine at that time; `bench` is for comparisons.

mod figures;
mod footprint;
pub mod hand;
mod place;
mod silence;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ipc_nats::testing::{self, TestCluster, TestServer};

use figures::Figures;
use hand::Manner;
use place::Place;
use traffic::Crew;

/// The parts to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,

    /// Print one JSON array on stdout
    #[arg(long)]
    json: bool,

    /// Write the figures into this document, between its marks
    #[arg(long, value_name = "FILE")]
    docs: Option<PathBuf>,

    /// Number of repetitions of each measurement
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Queues in shared memory, and one served at a socket
    Host,
    /// One NATS server
    Server,
    /// Three NATS servers as one cluster
    Cluster,
    /// The cluster, when one of its servers is killed
    Silence,
    /// Batches, acks in flight and many receivers, at a socket and over one NATS server
    Receivers,
}

const PARTS: [Part; 5] = [
    Part::Host,
    Part::Server,
    Part::Cluster,
    Part::Silence,
    Part::Receivers,
];

/// Measures in another process, with its queues in a folder that is removed at its end.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        !cfg!(debug_assertions),
        "this build is not optimised: run cargo xtask capacity"
    );
    let folder = tempfile::Builder::new()
        .prefix("ipc-capacity-")
        .tempdir_in("/dev/shm")?;
    let mut measure = Command::new("/proc/self/exe");
    measure
        .arg("capacity-measure")
        .args(["--repeat", &options.repeat.to_string()])
        // A subfolder, because it goes with its last file.
        .env("IPC_SHM_DIR", folder.path().join("shm"));
    if let Some(part) = options.only {
        measure.args(["--only", &part.name()]);
    }
    if let Some(docs) = &options.docs {
        measure.arg("--docs").arg(docs);
    }
    if options.json {
        measure.arg("--json");
    }
    let status = measure.status().context("starting the measurement")?;
    ensure!(status.success(), "the measurement: {status}");
    Ok(ExitCode::SUCCESS)
}

pub fn measure(options: &Options) -> Result<ExitCode> {
    ipc_nats::register();
    let mut all = Vec::new();
    let wanted = |part: &Part| options.only.is_none_or(|only| only == *part);
    for part in PARTS.into_iter().filter(wanted) {
        if part != Part::Host && !testing::is_installed() {
            continue;
        }
        eprintln!("measuring: {}", part.name());
        let rows = part.measure(options.repeat)?.rows();
        if let Some(docs) = &options.docs {
            figures::write(docs, &part.name(), &rows)?;
        }
        all.extend(rows);
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!("{}\n{}", figures::machine(), figures::table(&all));
    }
    Ok(ExitCode::SUCCESS)
}

impl Part {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("a visible value");
        value.get_name().to_owned()
    }

    fn measure(self, repeat: u32) -> Result<Figures> {
        let mut figures = Figures::default();
        match self {
            Self::Host => host(repeat, &mut figures)?,
            Self::Server => server(repeat, &mut figures)?,
            Self::Cluster => nats(&Place::cluster(&TestCluster::start()), repeat, &mut figures)?,
            Self::Silence => silence::measure(repeat, &mut figures)?,
            Self::Receivers => receivers(repeat, &mut figures)?,
        }
        Ok(figures)
    }
}

const ONE_TO_ONE: Crew = Crew {
    senders: 1,
    receivers: 1,
    bytes: 64,
};
const TWO_TO_TWO: Crew = Crew {
    senders: 2,
    receivers: 2,
    bytes: 64,
};
/// A handle has one request under way, so a server needs several handles before its cores are busy.
const FOUR_TO_FOUR: Crew = Crew {
    senders: 4,
    receivers: 4,
    bytes: 64,
};

fn with_a_kibibyte(crew: Crew) -> Crew {
    Crew {
        bytes: 1024,
        ..crew
    }
}

fn host(repeat: u32, figures: &mut Figures) -> Result<()> {
    let folder = std::env::var_os("IPC_SHM_DIR");
    let folder = folder.context("`cargo xtask capacity` says where queues go")?;
    let folder = Path::new(&folder).parent().context("a folder of ours")?;
    footprint::measure(folder, figures)?;
    let sockets = tempfile::tempdir()?;
    for place in [Place::Shm, Place::Unix(sockets.path().to_owned())] {
        for _ in 0..repeat {
            for crew in [ONE_TO_ONE, TWO_TO_TWO, with_a_kibibyte(TWO_TO_TWO)] {
                traffic::stream(&place, crew, figures)?;
            }
            traffic::single(&place, figures)?;
            traffic::round_trip(&place, figures)?;
        }
    }
    Ok(())
}

/// The numbers of receivers that compete.
const RECEIVERS: [usize; 4] = [1, 4, 16, 64];

fn receivers(repeat: u32, figures: &mut Figures) -> Result<()> {
    let sockets = tempfile::tempdir()?;
    let server = TestServer::start();
    let places = [
        Place::Unix(sockets.path().to_owned()),
        Place::server(&server, true),
    ];
    for place in places {
        for _ in 0..repeat {
            for manner in [Manner::Single, Manner::InFlight, Manner::Batches] {
                traffic::saving(&place, manner, figures)?;
            }
            for count in RECEIVERS {
                traffic::receivers(&place, count, figures)?;
            }
        }
    }
    Ok(())
}

fn server(repeat: u32, figures: &mut Figures) -> Result<()> {
    let server = TestServer::start();
    for in_memory in [true, false] {
        nats(&Place::server(&server, in_memory), repeat, figures)?;
    }
    Ok(())
}

fn nats(place: &Place, repeat: u32, figures: &mut Figures) -> Result<()> {
    for _ in 0..repeat {
        traffic::single(place, figures)?;
        traffic::round_trip(place, figures)?;
        traffic::apart(place, FOUR_TO_FOUR, figures)?;
        for crew in [ONE_TO_ONE, FOUR_TO_FOUR, with_a_kibibyte(FOUR_TO_FOUR)] {
            traffic::stream(place, crew, figures)?;
        }
    }
    Ok(())
}
