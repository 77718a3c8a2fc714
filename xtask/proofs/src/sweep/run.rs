//! Sweeps one operation from one state. It steps the operation, and lets a survivor judge each
//! change. Then it does the same with the survivor's recovery, and then a few real kills.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use ipc_queue::transport::OpenMode;
use serde::Serialize;

use super::actor::{self, SEGMENTS};
use super::operation::{Operation, State};
use super::operations::RECOVERY;
use super::outcome::{Expectation, Outcome};
use super::snapshot::{Observer, Snapshot};
use super::stopping::{self, Survivor};
use super::survivor;
use super::tracee::{Step, Tracee};

/// The thoroughness of a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The number of snapshots per operation and state whose recovery is also stepped.
    pub recoveries: usize,
    /// The number of real kills for each operation and state.
    pub kills: usize,
    /// The number of instructions of each operation and state at which the process is stopped, for
    /// operations with stops.
    pub stops: usize,
}

/// The counts of a sweep.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub states: u64,
    pub instructions: u64,
    pub crash_states: u64,
    pub real_kills: u64,
    pub stops: u64,
    pub violations: Vec<String>,
}

/// Sweeps, in a folder of its own.
pub struct Sweeper<'a> {
    folder: PathBuf,
    /// The examined snapshots, with their expectations.
    examined: &'a Mutex<HashSet<u64>>,
    tally: Tally,
}

/// The place of a stop: this many instructions after this many accesses to the watched words. It is
/// not counted from the beginning, because the number of instructions until the first access may
/// differ between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    accesses: usize,
    instructions: u64,
}

impl Place {
    const fn after(accesses: usize, instructions: u64) -> Self {
        Self {
            accesses,
            instructions,
        }
    }
}

/// The places right before and right after each of these accesses.
fn around(accesses: &[u64]) -> impl Iterator<Item = Place> {
    let earlier = [0].into_iter().chain(accesses.iter().copied());
    let apart = accesses
        .iter()
        .zip(earlier)
        .map(|(this, earlier)| this - earlier);
    apart.enumerate().flat_map(|(index, apart)| {
        [
            Place::after(index, apart.saturating_sub(1)),
            Place::after(index + 1, 0),
        ]
    })
}

/// A snapshot that differs from the one before, and its place.
struct Change {
    instruction: u64,
    snapshot: Snapshot,
}

/// After this many violations of one operation from one state, the rest of its snapshots is not
/// examined.
const ENOUGH: usize = 10;
/// An operation that does not end within this many steps counts as a loop.
const LONGEST: u64 = 3_000_000;

impl<'a> Sweeper<'a> {
    pub fn new(folder: PathBuf, examined: &'a Mutex<HashSet<u64>>) -> Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self {
            folder,
            examined,
            tally: Tally::default(),
        })
    }

    /// Sweeps one operation from one state completely.
    pub fn sweep(&mut self, operation: &Operation, state: &State, effort: Effort) -> Result<Tally> {
        let name = format!("{} {}", operation.name, state.name);
        let swept = self.sweep_all(operation, state, &name, effort);
        swept.with_context(|| format!("sweeping {name}"))?;
        self.tally.states = 1;
        Ok(std::mem::take(&mut self.tally))
    }

    fn sweep_all(
        &mut self,
        operation: &Operation,
        state: &State,
        name: &str,
        effort: Effort,
    ) -> Result<()> {
        let (changes, expectation) = self.step_through(operation.name, state.name, None)?;
        self.judge_ends(name, &changes, &expectation)?;
        self.judge(name, &changes, &expectation)?;
        for index in spread(changes.len(), effort.recoveries) {
            let change = &changes[index];
            let name = format!("{name}, instruction {}, then recovery", change.instruction);
            let given = Some(&change.snapshot);
            let (inner, _) = self.step_through(RECOVERY.0, RECOVERY.1, given)?;
            self.judge(&name, &inner, &expectation)?;
        }
        for index in spread(changes.len(), effort.kills) {
            self.kill_at(operation, state, name, index)?;
        }
        if operation.is_stopped() {
            for place in self.stops(operation, state, effort.stops)? {
                self.stop_at(operation, state, name, place)?;
            }
        }
        Ok(())
    }

    /// The instructions after which to stop: right before and right after the accesses to the first
    /// cell's state and deadline. Where these can't be found out, any instruction.
    fn stops(&self, operation: &Operation, state: &State, count: usize) -> Result<Vec<Place>> {
        let (mut tracee, _survivor, _) = self.start_for_survivor(operation, state, 0)?;
        tracee.watch(&stopping::watched_words(&self.folder)?)?;
        let mut accesses = Vec::new();
        while tracee.step()? == Step::Done {
            if tracee.accessed()? {
                accesses.push(tracee.instructions());
            }
            ensure!(tracee.instructions() < LONGEST, "it does not end");
        }
        let last = tracee.instructions();
        tracee.kill()?;
        if accesses.is_empty() {
            let count = count as u64;
            let anywhere = (1..=count).map(|rank| Place::after(0, rank * last / (count + 1)));
            return Ok(anywhere.collect());
        }
        let around: Vec<_> = around(&accesses).collect();
        let chosen = spread(around.len(), count);
        Ok(chosen.into_iter().map(|index| around[index]).collect())
    }

    /// Starts an actor whose leases are short, beside a survivor.
    fn start_for_survivor(
        &self,
        operation: &Operation,
        state: &State,
        seed: u64,
    ) -> Result<(Tracee, Survivor, Expectation)> {
        let folder = self.prepare(None)?;
        let lease = stopping::LEASE.as_millis().to_string();
        let more = ["--lease-ms", &lease];
        let (tracee, expectation) = Tracee::start_with(operation.name, state.name, &folder, &more)?;
        let survivor = Survivor::attach(&folder.join(SEGMENTS), operation.name, seed)?;
        Ok((tracee, survivor, expectation))
    }

    /// Runs to that instruction again, and stops there while a survivor works on.
    fn stop_at(
        &mut self,
        operation: &Operation,
        state: &State,
        name: &str,
        place: Place,
    ) -> Result<()> {
        let seed = (place.accesses as u64).wrapping_add(place.instructions);
        let (mut tracee, mut survivor, expectation) =
            self.start_for_survivor(operation, state, seed)?;
        tracee.watch(&stopping::watched_words(&self.folder)?)?;
        let (mut accesses, mut since, mut ended) = (0, 0, false);
        while !ended && (accesses < place.accesses || since < place.instructions) {
            ended = tracee.step()? == Step::End;
            ensure!(tracee.instructions() < LONGEST, "it does not end");
            since += 1;
            if !ended && tracee.accessed()? {
                (accesses, since) = (accesses + 1, 0);
            }
        }
        let instruction = tracee.instructions();
        let worked = survivor.work_on();
        if !ended {
            tracee.run_on()?;
        }
        self.tally.instructions += tracee.instructions();
        self.tally.stops += 1;
        let judged = worked.and_then(|()| survivor.judge(&expectation));
        tracee.kill()?;
        let segments = self.folder.join("actor").join(SEGMENTS);
        let found = judged.and_then(|queue| survivor::witness(queue, &segments));
        if !matches!(&found, Ok(outcome) if expectation.could_leave(outcome)) {
            let place = format!("{name}, stopped after instruction {instruction}");
            self.violate(&place, &found, &"what is left of that");
        }
        Ok(())
    }

    /// Steps from the beginning to the end. Returns the snapshot at the beginning, and after each
    /// change.
    fn step_through(
        &mut self,
        operation: &str,
        state: &str,
        given: Option<&Snapshot>,
    ) -> Result<(Vec<Change>, Expectation)> {
        let folder = self.prepare(given)?;
        let (mut tracee, expectation) = Tracee::start(operation, state, &folder)?;
        let mut observer = Observer::new(&folder.join(SEGMENTS))?;
        let mut changes = vec![Change {
            instruction: 0,
            snapshot: observer.seen().clone(),
        }];
        while tracee.step()? == Step::Done {
            if observer.look()? {
                changes.push(Change {
                    instruction: tracee.instructions(),
                    snapshot: observer.seen().clone(),
                });
            }
            ensure!(tracee.instructions() < LONGEST, "it does not end");
        }
        self.tally.instructions += tracee.instructions();
        tracee.kill()?;
        Ok((changes, expectation))
    }

    /// Checks that the first snapshot is exactly as expected before the operation, and the last as
    /// expected after it.
    fn judge_ends(
        &mut self,
        name: &str,
        changes: &[Change],
        expectation: &Expectation,
    ) -> Result<()> {
        let ends = [
            (changes.first(), &expectation.before),
            (changes.last(), &expectation.after),
        ];
        for (change, expected) in ends {
            let change = change.context("no snapshot at all")?;
            let found = self.examine(&change.snapshot)?;
            if !matches!(&found, Ok(outcome) if outcome == expected) {
                let place = format!("{name}, instruction {}", change.instruction);
                self.violate(&place, &found, expected);
            }
        }
        Ok(())
    }

    fn judge(&mut self, name: &str, changes: &[Change], expectation: &Expectation) -> Result<()> {
        let mut earlier = None;
        for change in changes {
            let before = earlier.replace(&change.snapshot);
            if !self.is_new(&change.snapshot, expectation) {
                continue;
            }
            // Each may take long to show, and more of them would add nothing.
            if self.tally.violations.len() >= ENOUGH {
                return Ok(());
            }
            let found = self.examine(&change.snapshot)?;
            if !matches!(&found, Ok(outcome) if expectation.allows(outcome)) {
                let what = before.map(|before| change.snapshot.difference(before));
                let what = what.unwrap_or_else(|| "the beginning".to_owned());
                let place = format!("{name}, instruction {} ({what})", change.instruction);
                self.violate(&place, &found, expectation);
            }
        }
        Ok(())
    }

    fn is_new(&mut self, snapshot: &Snapshot, expectation: &Expectation) -> bool {
        let mut hasher = DefaultHasher::new();
        snapshot.hash(&mut hasher);
        format!("{expectation:?}").hash(&mut hasher);
        let mut examined = self.examined.lock().expect("no sweeper panics");
        let new = examined.insert(hasher.finish());
        self.tally.crash_states += u64::from(new);
        new
    }

    /// A survivor's findings. The inner error is the survivor's.
    fn examine(&self, snapshot: &Snapshot) -> Result<Result<Outcome>> {
        let folder = self.folder.join("survivor");
        snapshot.restore(&folder).context("restoring a snapshot")?;
        Ok(survivor::examine(&folder))
    }

    /// Runs to change number `index` again, and kills there. The survivor attaches afterwards, or
    /// is attached before.
    fn kill_at(
        &mut self,
        operation: &Operation,
        state: &State,
        name: &str,
        index: usize,
    ) -> Result<()> {
        let folder = self.prepare(None)?;
        let (mut tracee, expectation) = Tracee::start(operation.name, state.name, &folder)?;
        let segments = folder.join(SEGMENTS);
        let mut observer = Observer::new(&segments)?;
        let mut left = index;
        while left > 0 && tracee.step()? == Step::Done {
            left -= usize::from(observer.look()?);
        }
        let instruction = tracee.instructions();
        // Impossible if there is no queue, or no slot left.
        let namespace = actor::namespace_in(&segments)?;
        let watched = index % 2 == 1;
        let witness = watched.then(|| actor::open(&namespace, OpenMode::Open).ok());
        tracee.kill()?;
        self.tally.instructions += instruction;
        self.tally.real_kills += 1;
        let found = match witness.flatten() {
            Some(queue) => survivor::witness(queue, &segments),
            None => survivor::examine(&segments),
        };
        if !matches!(&found, Ok(outcome) if expectation.allows(outcome)) {
            let place = format!("{name}, killed at instruction {instruction} (change {index})");
            self.violate(&place, &found, &expectation);
        }
        Ok(())
    }

    /// A new folder for an actor, with a queue or none.
    fn prepare(&self, given: Option<&Snapshot>) -> Result<PathBuf> {
        let folder = self.folder.join("actor");
        // The file that the dead process was restoring is needed to complete the restore.
        let saved_copy = folder.join(actor::SAVED_COPY);
        let saved = given.and_then(|_| fs::read(&saved_copy).ok());
        remove(&folder)?;
        fs::create_dir(&folder)?;
        if let Some(saved) = saved {
            fs::write(&saved_copy, saved)?;
        }
        if let Some(snapshot) = given {
            snapshot.restore(&folder.join(SEGMENTS))?;
        }
        Ok(folder)
    }

    fn violate(&mut self, place: &str, found: &Result<Outcome>, expected: &impl Display) {
        let found = match found {
            Ok(outcome) => format!("found {outcome}"),
            Err(error) => format!("broken: {error:#}"),
        };
        let violation = format!("{place}: {found}; expected {expected}");
        self.tally.violations.push(violation);
    }
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.states += other.states;
        self.instructions += other.instructions;
        self.crash_states += other.crash_states;
        self.real_kills += other.real_kills;
        self.stops += other.stops;
        self.violations.extend(other.violations);
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Up to `count` of `0..len`, spread evenly, with the first and the last.
fn spread(len: usize, count: usize) -> Vec<usize> {
    match (len, count) {
        (_, 0) | (0, _) => vec![],
        (_, 1) => vec![len / 2],
        _ if count >= len => (0..len).collect(),
        _ => (0..count)
            .map(|rank| rank * (len - 1) / (count - 1))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_right_before_and_right_after_each_access() {
        let places = [(0, 9), (1, 0), (1, 4), (2, 0)];
        let places = places.map(|(accesses, then)| Place::after(accesses, then));
        assert_eq!(around(&[10, 15]).collect::<Vec<_>>(), places);
    }

    #[test]
    fn a_sample_is_spread_from_the_first_to_the_last() {
        assert_eq!(spread(10, 3), [0, 4, 9]);
        assert_eq!(spread(2, 3), [0, 1]);
        assert_eq!(spread(7, 1), [3]);
        assert!(spread(0, 3).is_empty() && spread(3, 0).is_empty());
    }
}
