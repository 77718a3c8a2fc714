//! The kill storm: a receiver is killed every 20 ms under full load, and a new one takes its place.
//!
//! One sender counts the accepted messages. Receivers mark each message that they have processed,
//! before they settle it. At the end a message that was accepted but has no mark is lost. If no
//! message arrives for some time although both sides are alive, the queue is wedged.

pub mod part;

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::part::{ACCEPTED, FILE, MARKS, MOST_MESSAGES, Orders, PROCESSED, STOP, mark, place};
use crate::memory::Shared;
use crate::player::Player;
use crate::probe::Distance;
use crate::repetition::SHM_DIR;
use crate::schedule::Summary;
use crate::subjects;
use crate::work::{Placement, SMALL, Unit, Work};

/// The result of a storm.
#[derive(Clone, Copy, Debug)]
pub struct Aftermath {
    pub kills: u64,
    /// The number of the kill after which no message arrived.
    pub wedged_at: Option<u64>,
    pub lost: u64,
    pub accepted: u64,
}

const KILL_EVERY: Duration = Duration::from_millis(20);
const WEDGED_AFTER: Duration = Duration::from_secs(3);
const DRAINED_AFTER: Duration = Duration::from_millis(500);
const RECEIVERS: usize = 2;

/// Runs the storm on one subject.
pub fn rage(player: &dyn Player, kills: u64) -> Result<Aftermath> {
    let folder = tempfile::Builder::new()
        .prefix("ipc-bench-")
        .tempdir_in("/dev/shm")?;
    let place = place(folder.path());
    let _guard = player.create(&place)?;
    let field = Field::new(player, folder.path())?;
    field.rage(kills)
}

struct Field {
    orders: Orders,
    block: Shared,
    sender: Child,
    receivers: Vec<Child>,
}

impl Field {
    fn new(player: &dyn Player, folder: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join(FILE))?;
        file.set_len(MARKS as u64 + MOST_MESSAGES)?;
        let orders = Orders {
            subject: player.name(),
            folder: folder.to_owned(),
            sends: false,
        };
        let receivers = (0..RECEIVERS)
            .map(|_| start(&orders))
            .collect::<Result<_>>()?;
        let sends = Orders {
            sends: true,
            ..orders.clone()
        };
        Ok(Self {
            block: Shared::open_sparse(&folder.join(FILE))?,
            sender: start(&sends)?,
            receivers,
            orders,
        })
    }

    fn rage(mut self, kills: u64) -> Result<Aftermath> {
        let mut aftermath = Aftermath {
            kills: 0,
            wedged_at: None,
            lost: 0,
            accepted: 0,
        };
        self.progresses(WEDGED_AFTER);
        while aftermath.kills < kills && aftermath.wedged_at.is_none() {
            let victim = usize::try_from(aftermath.kills)? % RECEIVERS;
            self.receivers[victim].kill()?;
            self.receivers[victim].wait()?;
            self.receivers[victim] = start(&self.orders)?;
            aftermath.kills += 1;
            thread::sleep(KILL_EVERY);
            if !self.progresses(WEDGED_AFTER) {
                aftermath.wedged_at = Some(aftermath.kills);
            }
        }
        self.block.word(STOP).store(1, SeqCst);
        while self.progresses(DRAINED_AFTER) {}
        aftermath.accepted = self.block.word(ACCEPTED).load(SeqCst);
        aftermath.lost = (0..aftermath.accepted)
            .filter(|number| self.block.byte(mark(*number)).load(Relaxed) == 0)
            .count() as u64;
        Ok(aftermath)
    }

    /// Returns whether a message is processed within a time.
    fn progresses(&self, within: Duration) -> bool {
        let processed = self.block.word(PROCESSED);
        let (before, deadline) = (processed.load(SeqCst), Instant::now() + within);
        while Instant::now() < deadline {
            if processed.load(SeqCst) != before {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        for child in self.receivers.iter_mut().chain([&mut self.sender]) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(orders: &Orders) -> Result<Child> {
    Command::new("/proc/self/exe")
        .args(["storm-part", &serde_json::to_string(orders)?])
        .env(SHM_DIR, orders.folder.join("shm"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting a part")
}

/// Sends or receives until killed or stopped.
pub fn run(orders: &str) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    let orders: Orders = serde_json::from_str(orders).context("reading orders")?;
    let player = subjects::all()
        .into_iter()
        .find(|player| player.name() == orders.subject && player.does(ONE_WAY));
    player.context("no such subject")?.weather(&orders)
}

/// The work of a subject in a storm.
pub const ONE_WAY: Work = Work::OneWay {
    senders: 1,
    receivers: RECEIVERS,
    bytes: SMALL,
};

/// Runs the storm on all subjects that can be opened again, one after the other.
pub fn all(players: &[&dyn Player], kills: u64) -> (Vec<Summary>, Vec<(String, String)>) {
    let bar = crate::schedule::bar(players.len());
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for player in players {
        bar.set_message(format!("kill storm, {}", player.name()));
        match rage(*player, kills) {
            Ok(aftermath) => rows.extend(aftermath.summaries(&player.name())),
            Err(error) => failures.push((
                format!("kill storm, {}", player.name()),
                format!("{error:#}"),
            )),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    (rows, failures)
}

impl Aftermath {
    fn summaries(self, subject: &str) -> Vec<Summary> {
        let row = |work: &str, unit, value: u64| Summary {
            work: work.to_owned(),
            subject: subject.to_owned(),
            placement: Placement::Unpinned,
            distance: Distance::None,
            unit,
            median: value as f64,
            min: value as f64,
            max: value as f64,
            samples: 1,
        };
        let mut rows = vec![
            row(
                "kill storm: survived",
                Unit::Kills,
                self.wedged_at.map_or(self.kills, |kill| kill - 1),
            ),
            row("kill storm: lost", Unit::Messages, self.lost),
            row("kill storm: accepted", Unit::Messages, self.accepted),
        ];
        if let Some(kill) = self.wedged_at {
            rows.push(row("kill storm: wedged at", Unit::Kills, kill));
        }
        rows
    }
}
