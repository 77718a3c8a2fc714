//! The order of repetitions: round after round over all rows, so that changes of the machine affect
//! all rows alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::player::Player;
use crate::probe::Distance;
use crate::repetition::{self, Repetition};
use crate::statistics::median;
use crate::switches::Switches;
use crate::work::{LARGE, Manner, Placement, SMALL, Times, Unit, Work};

/// A subject at a work, with its measurements.
pub struct Row<'a> {
    pub work: Work,
    pub player: &'a dyn Player,
    pub placement: Placement,
    figures: BTreeMap<Distance, Vec<f64>>,
    mixed: usize,
    peaks: Vec<f64>,
    cpu_ns: [Vec<f64>; 2],
    switches: Vec<Switches>,
    failures: Vec<String>,
}

/// The number and the duration of repetitions.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The number of good repetitions, at one distance.
    pub repetitions: usize,
    /// The maximum number of rounds, whatever their results.
    pub rounds: usize,
    pub times: Times,
    /// The time for all rows together. Rounds that do not fit are left out.
    pub budget: Option<Duration>,
}

/// The measurements at one distance.
#[derive(Clone, Debug)]
pub struct Summary {
    pub work: String,
    pub subject: String,
    pub placement: Placement,
    pub distance: Distance,
    pub unit: Unit,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub samples: usize,
}

/// A row is given up after this many failures, if more repetitions fail than succeed.
const FAILURES: usize = 3;
/// The prefix of the works that show what placement changes.
pub const PLACED: &str = "pinned against unpinned: ";
/// The prefix of the works about processor time.
pub const CPU: &str = "CPU time of a message, ";
const ONE_TO_ONE: Work = Work::OneWay {
    senders: 1,
    receivers: 1,
    bytes: SMALL,
};
const SPINNING: Work = Work::RoundTrip {
    manner: Manner::Spinning,
};
/// Bare round trips are a by-product, in a separate row.
const BOUNCED: &str = "cache line";

impl<'a> Row<'a> {
    pub fn new(work: Work, player: &'a dyn Player, placement: Placement) -> Self {
        Self {
            work,
            player,
            placement,
            figures: BTreeMap::new(),
            mixed: 0,
            peaks: Vec::new(),
            cpu_ns: Default::default(),
            switches: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn is_done(&self, plan: &Plan) -> bool {
        let most = self.figures.values().map(Vec::len).max().unwrap_or(0);
        most >= plan.repetitions || self.is_given_up()
    }

    /// Returns whether the row fails often, and more often than it succeeds.
    fn is_given_up(&self) -> bool {
        let good: usize = self.figures.values().map(Vec::len).sum();
        self.failures.len() >= FAILURES && self.failures.len() > good
    }

    /// Returns the occasional failures.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    fn add(&mut self, result: anyhow::Result<Repetition>) {
        if let Ok(repetition) = &result {
            self.peaks.push(repetition.peak_bytes as f64);
            self.switches.push(repetition.switches);
            for (values, value) in self.cpu_ns.iter_mut().zip(repetition.cpu_ns) {
                values.extend(value);
            }
        }
        match result {
            Ok(repetition) if repetition.distance == Distance::Mixed => self.mixed += 1,
            Ok(repetition) => {
                let figures = self.figures.entry(repetition.distance).or_default();
                figures.push(repetition.figure);
            }
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    /// Returns the summaries; none for a row that failed.
    pub fn summaries(&self, plan: &Plan) -> Vec<Summary> {
        if self.failure().is_some() {
            return Vec::new();
        }
        let summary = |(distance, figures): (&Distance, &Vec<f64>)| {
            let work = self.work;
            let row = (
                work.title(self.placement),
                self.player.name(),
                self.placement,
                work.unit(),
            );
            summarise(row, *distance, figures)
        };
        let peak = self.has_peak().then(|| {
            let row = (
                format!("peak memory of a process, {}", self.work),
                self.player.name(),
                self.placement,
                Unit::Bytes,
            );
            summarise(row, Distance::None, &self.peaks)
        });
        let mut summaries: Vec<_> = self.figures.iter().map(summary).chain(peak).collect();
        if self.is_about_placement() {
            summaries.extend(self.placed(plan));
        }
        let is_usual = self.placement == self.work.placement();
        if is_usual && self.player.does_crowds() && self.work.is_one_way() {
            summaries.extend(self.cpu());
        }
        summaries
    }

    /// Returns the processor time of a message, of the parts and of the servers.
    fn cpu(&self) -> impl Iterator<Item = Summary> {
        let sides = ["clients", "servers"].into_iter().zip(&self.cpu_ns);
        let sides = sides.filter(|(_, values)| !values.is_empty());
        sides.map(|(side, values)| {
            let row = (
                format!("{CPU}{}", self.work),
                format!("{}, {side}", self.player.name()),
                self.placement,
                Unit::Nanoseconds,
            );
            summarise(row, Distance::None, values)
        })
    }

    /// Returns whether the row is one of those that show what placement changes.
    fn is_about_placement(&self) -> bool {
        let names = ["shm as opened", "shm", "vyukov adaptive", "pipe"];
        self.work == ONE_TO_ONE && names.contains(&&self.player.name()[..])
    }

    /// Returns what the scheduler did, and the rate beside it, whatever the distances.
    fn placed(&self, plan: &Plan) -> Vec<Summary> {
        let times = self.work.times(plan.times);
        let seconds = (times.warm_up + times.measured).as_secs_f64();
        let parts = self.work.roles().len() as f64;
        let counts = |count: fn(&Switches) -> i64, per: f64| -> Vec<f64> {
            let counts = self.switches.iter().map(|it| count(it) as f64 / per);
            counts.collect()
        };
        let micros = seconds * parts * 1e6;
        let rates = self.figures.values().flatten().copied().collect();
        let columns: [(&str, Unit, Vec<f64>); 6] = [
            ("messages", Unit::MessagesPerSecond, rates),
            ("sleeps", Unit::PerSecond, counts(|it| it.sleeps, seconds)),
            ("yields", Unit::PerSecond, counts(|it| it.yields, seconds)),
            ("moves", Unit::PerSecond, counts(|it| it.moves, seconds)),
            ("on a core", Unit::Share, counts(|it| it.busy_us, micros)),
            (
                "in the kernel",
                Unit::Share,
                counts(|it| it.kernel_us, micros),
            ),
        ];
        let summary = |(what, unit, values): (&str, Unit, Vec<f64>)| {
            let work = format!("{PLACED}{what}");
            let row = (work, self.player.name(), self.placement, unit);
            summarise(row, Distance::None, &values)
        };
        columns.into_iter().map(summary).collect()
    }

    /// Returns whether the row is measured for memory: the smallest and the largest message.
    fn has_peak(&self) -> bool {
        let bytes = [SMALL, LARGE];
        if self.placement != self.work.placement() {
            return false;
        }
        let (senders, receivers) = (1, 1);
        bytes.into_iter().any(|bytes| {
            self.work
                == Work::OneWay {
                    senders,
                    receivers,
                    bytes,
                }
        })
    }

    /// Returns why there is no figure.
    pub fn failure(&self) -> Option<&str> {
        let failed = self.is_given_up() || self.figures.is_empty();
        failed.then(|| {
            self.failures
                .last()
                .map_or("only mixed repetitions", |last| last)
        })
    }
}

/// Returns the median and the range.
pub fn summarise(
    (work, subject, placement, unit): (String, String, Placement, Unit),
    distance: Distance,
    figures: &[f64],
) -> Summary {
    let mut figures = figures.to_vec();
    let median = median(&mut figures);
    Summary {
        work,
        subject,
        placement,
        distance,
        unit,
        median,
        min: figures.first().copied().unwrap_or(median),
        max: figures.last().copied().unwrap_or(median),
        samples: figures.len(),
    }
}

/// Measures all rows. Also returns the bare round trips of the probes.
pub fn run(rows: &mut [Row<'_>], plan: &Plan) -> Vec<Summary> {
    let bar = bar(rows.len() * plan.repetitions);
    let mut probes: BTreeMap<Distance, Vec<f64>> = BTreeMap::new();
    // Without the rows beside it, the row of the probes says nothing.
    let is_compared = rows.iter().any(|row| row.work == SPINNING);
    let started = Instant::now();
    let over = || plan.budget.is_some_and(|budget| started.elapsed() > budget);
    for round in 0..plan.rounds {
        let missing = rows.iter().filter(|row| !row.is_done(plan)).count();
        let done = rows.len() - missing;
        bar.set_length((rows.len() * round.max(plan.repetitions) + missing) as u64);
        bar.set_position((rows.len() * round) as u64);
        if missing == 0 || over() {
            break;
        }
        for row in rows.iter_mut().filter(|row| !row.is_done(plan)) {
            if over() {
                break;
            }
            let title = row.work.title(row.placement);
            bar.set_message(format!("{done} rows done; {title}, {}", row.player.name()));
            let times = row.work.times(plan.times);
            let result = repetition::measure(row.player, row.work, row.placement, times);
            if let Ok(Repetition {
                distance,
                probe_ns: Some(trip),
                ..
            }) = result
                && row.placement == Placement::Pinned
                && is_compared
            {
                probes.entry(distance).or_default().push(trip);
            }
            row.add(result);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    probes.remove(&Distance::Mixed);
    let work = SPINNING;
    let summary = |(distance, trips): (&Distance, &Vec<f64>)| {
        let row = (
            work.to_string(),
            BOUNCED.to_owned(),
            Placement::Pinned,
            work.unit(),
        );
        summarise(row, *distance, trips)
    };
    probes.iter().map(summary).collect()
}

/// Returns a progress bar with this number of steps.
pub fn bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30.green} {percent}% {eta}  {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
