//! `cargo xtask scenarios`: shows that promises hold when real processes are killed, stopped or
//! starved.
//!
//! Each scenario is a file, named after its promise. It runs in its own process (`scenario-play`)
//! and its own folder ([`stage`]), and starts the other processes ([`puppet`]). So a scenario that
//! hangs, crashes or takes a namespace for itself harms no other. When it ends, the remaining
//! processes of its process group are killed. Afterwards nothing may be left: no file, no process,
//! no cell, chunk or slot in use.

mod isolation;
pub mod job_process;
mod ledger;
pub mod numbered;
mod order;
mod perform;
pub mod pool_worker;
pub mod puppet;
mod puppeteer;
mod stage;

mod all_workers_killed;
mod back_pressure;
mod clock_jump;
mod coordinator_killed_and_restarted;
mod creator_killed;
mod eintr_storm;
mod exec_in_the_middle;
mod file_size_limit;
mod foreign_segment;
mod fork_in_the_middle;
mod frozen_worker_comes_back;
mod frozen_worker_delays_no_other;
mod hundred_attachments;
mod no_thread_to_watch;
mod one_minute_outage;
mod other_pid_namespace;
mod other_type_segment;
mod pid_reuse;
mod planted_file;
mod poison_task;
mod pool_and_other_children;
mod pool_hung_job;
mod pool_killed_while_draining;
mod pool_lease;
mod pool_memory_hog;
mod pool_poison_job;
mod pool_program_replaced;
mod pool_started_by_a_thread;
mod pool_supervisor_killed;
mod pool_worker_killed_in_a_job;
mod pool_worker_killed_while_idle;
mod pool_worker_killed_while_starting;
mod recoverer_killed;
mod removed_while_in_use;
mod reordered_field;
mod rolling_release;
mod sender_killed_mid_send;
mod shared_memory_full;
mod shutdown_drains;
mod stale_segment_from_a_dead_run;
mod too_many_open_files;
mod truncated_segment;
mod worker_killed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use perform::perform;
use stage::Stage;

use xtask::ending::end;

/// The scenarios to run, and the way to report.
#[derive(Debug, Args)]
pub struct Options {
    /// Names of scenarios; all, if none is given
    names: Vec<String>,

    /// List the scenarios and their promises
    #[arg(long)]
    list: bool,

    /// Print a list of objects on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// The arguments of a process that runs one scenario.
#[derive(Debug, Args)]
pub struct Play {
    name: String,
    #[arg(long)]
    folder: PathBuf,
}

struct Scenario {
    name: &'static str,
    promise: &'static str,
    play: fn(&Stage) -> Result<Outcome>,
}

/// The end of a scenario that did not break.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The promise held. The value has the counts and measurements.
    Kept(Value),
    /// The scenario can't run here, with the reason.
    Skipped(String),
}

/// The result of one scenario.
#[derive(Debug, Serialize)]
struct Report {
    name: &'static str,
    ok: bool,
    seconds: f64,
    figures: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let chosen = choose(&options.names)?;
    if options.list {
        for scenario in chosen {
            println!(
                "{:width$}  {}",
                scenario.name,
                scenario.promise,
                width = longest_name()
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    // The children of a killed process become children of this one.
    prctl::set_child_subreaper(true)?;
    let started = Instant::now();
    let mut reports = Vec::new();
    for scenario in chosen {
        let report = perform(scenario)?;
        if !options.json {
            println!("{}", report.line());
        }
        reports.push(report);
    }
    let broken = reports.iter().filter(|report| !report.ok).count();
    let text = summary(&reports, started.elapsed());
    end(options.json, &reports, text, broken == 0)
}

/// Runs one scenario in this process.
pub fn play(play: &Play) -> Result<ExitCode> {
    // The parent runs one scenario after the other from its main thread, which lives as long as the
    // parent.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let scenario = choose(std::slice::from_ref(&play.name))?[0];
    let stage = Stage::new(play.folder.clone());
    let outcome = (scenario.play)(&stage)?;
    stage.check_nothing_left()?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(ExitCode::SUCCESS)
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == *name);
        found.with_context(|| format!("there is no scenario {name:?}; see --list"))
    };
    names.iter().map(find).collect()
}

impl Outcome {
    fn kept(figures: Value) -> Result<Self> {
        Ok(Self::Kept(figures))
    }

    fn skipped(reason: impl Into<String>) -> Result<Self> {
        Ok(Self::Skipped(reason.into()))
    }
}

impl Report {
    fn line(&self) -> String {
        let (verdict, remark) = match (&self.error, &self.skipped) {
            (Some(error), _) => ("BROKEN", error.clone()),
            (None, Some(reason)) => ("skipped", reason.clone()),
            (None, None) => ("ok", shown(&self.figures)),
        };
        let width = longest_name();
        let line = format!(
            "{verdict:7}  {:width$} {:6.2} s  {remark}",
            self.name, self.seconds
        );
        line.trim_end().to_owned()
    }
}

/// Figures for people: `kills 20, recovery_ms max 3.1 p50 1.2`.
fn shown(figures: &Value) -> String {
    let Value::Object(figures) = figures else {
        return figures.to_string();
    };
    let one = |(name, value): (&String, &Value)| match value {
        Value::Object(_) => format!("{name} {}", shown(value).replace(", ", " ")),
        value => format!("{name} {value}"),
    };
    figures.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn summary(reports: &[Report], took: Duration) -> String {
    let broken = reports.iter().filter(|report| !report.ok).count();
    let skipped = reports
        .iter()
        .filter(|report| report.skipped.is_some())
        .count();
    let ok = reports.len() - broken - skipped;
    let seconds = took.as_secs_f64();
    format!("{ok} ok, {skipped} skipped, {broken} broken, in {seconds:.0} s")
}

fn longest_name() -> usize {
    SCENARIOS
        .iter()
        .map(|scenario| scenario.name.len())
        .max()
        .unwrap_or(0)
}

const SCENARIOS: [Scenario; 43] = [
    Scenario {
        name: "worker-killed",
        promise: "a killed worker's message is redelivered, at once to a worker that waits for it",
        play: worker_killed::play,
    },
    Scenario {
        name: "all-workers-killed",
        promise: "with all workers killed at once, nothing is lost and nothing acked twice",
        play: all_workers_killed::play,
    },
    Scenario {
        name: "sender-killed-mid-send",
        promise: "a killed sender leaves neither half a message nor a place or memory in use",
        play: sender_killed_mid_send::play,
    },
    Scenario {
        name: "coordinator-killed-and-restarted",
        promise: "messages and unfinished leases outlive their sender, and wait for the next one",
        play: coordinator_killed_and_restarted::play,
    },
    Scenario {
        name: "recoverer-killed",
        promise: "if processes are killed while they recover the dead, the last survivor gets \
            everything",
        play: recoverer_killed::play,
    },
    Scenario {
        name: "creator-killed",
        promise: "a queue exists as a whole or not at all, even if its creator or remover is \
            killed",
        play: creator_killed::play,
    },
    Scenario {
        name: "frozen-worker-comes-back",
        promise: "a lost lease stays lost, but the memory stays untouched until its reader \
            releases it",
        play: frozen_worker_comes_back::play,
    },
    Scenario {
        name: "frozen-worker-delays-no-other",
        promise: "processes stopped at any point cost the others nothing",
        play: frozen_worker_delays_no_other::play,
    },
    Scenario {
        name: "poison-task",
        promise: "a message that kills every worker becomes a dead letter after its limit, with \
            the reason",
        play: poison_task::play,
    },
    Scenario {
        name: "back-pressure",
        promise: "a full queue blocks until the deadline or refuses, and hands the message back",
        play: back_pressure::play,
    },
    Scenario {
        name: "shared-memory-full",
        promise: "missing memory is an error with figures, and existing queues continue",
        play: shared_memory_full::play,
    },
    Scenario {
        name: "file-size-limit",
        promise: "a limit on file sizes is an error with figures, and existing queues continue",
        play: file_size_limit::play,
    },
    Scenario {
        name: "too-many-open-files",
        promise: "without free descriptors opening fails and leaks nothing, and open queues \
            continue",
        play: too_many_open_files::play,
    },
    Scenario {
        name: "truncated-segment",
        promise: "a truncated or extended file is refused; truncation during use is an error, not \
            a crash",
        play: truncated_segment::play,
    },
    Scenario {
        name: "foreign-segment",
        promise: "files and folders of other users, or open to other users, are refused",
        play: foreign_segment::play,
    },
    Scenario {
        name: "planted-file",
        promise: "anything in a queue's place that is not a file is refused, not followed or \
            waited for",
        play: planted_file::play,
    },
    Scenario {
        name: "other-type-segment",
        promise: "a queue of another type, other settings or another kind is refused by name",
        play: other_type_segment::play,
    },
    Scenario {
        name: "stale-segment-from-a-dead-run",
        promise: "after a run whose processes are all dead, the next finds everything, and the \
            rest is free",
        play: stale_segment_from_a_dead_run::play,
    },
    Scenario {
        name: "shutdown-drains",
        promise: "a closed queue is drained to the last message, even if its worker is killed",
        play: shutdown_drains::play,
    },
    Scenario {
        name: "removed-while-in-use",
        promise: "a process that is blocked in a removed queue wakes with an error",
        play: removed_while_in_use::play,
    },
    Scenario {
        name: "eintr-storm",
        promise: "signals neither shorten a wait, nor lengthen it, nor lose anything",
        play: eintr_storm::play,
    },
    Scenario {
        name: "clock-jump",
        promise: "a clock with any value, or one that jumps ahead between two runs, loses nothing",
        play: clock_jump::play,
    },
    Scenario {
        name: "fork-in-the-middle",
        promise: "a forked child can do nothing in its parent's name, nor hide its parent's death",
        play: fork_in_the_middle::play,
    },
    Scenario {
        name: "pid-reuse",
        promise: "a dead process is not taken for alive because another has its number",
        play: pid_reuse::play,
    },
    Scenario {
        name: "other-pid-namespace",
        promise: "deaths are noticed across PID namespaces, in both directions",
        play: other_pid_namespace::play,
    },
    Scenario {
        name: "exec-in-the-middle",
        promise: "a process that becomes another program counts as gone, and may attach again",
        play: exec_in_the_middle::play,
    },
    Scenario {
        name: "hundred-attachments",
        promise: "one process too many gets an error, and the slots of killed processes are free \
            at once",
        play: hundred_attachments::play,
    },
    Scenario {
        name: "no-thread-to-watch",
        promise: "if no thread can be started, blocked handles handle leases and deaths themselves",
        play: no_thread_to_watch::play,
    },
    Scenario {
        name: "one-minute-outage",
        promise: "jobs that fail for a minute are all done after it, with a queue's default \
            settings",
        play: one_minute_outage::play,
    },
    Scenario {
        name: "rolling-release",
        promise: "while a field is added, then removed, old and new programs share a queue and \
            lose no job",
        play: rolling_release::play,
    },
    Scenario {
        name: "reordered-field",
        promise: "a program whose type has its fields in another order can't open a postcard queue",
        play: reordered_field::play,
    },
    Scenario {
        name: "pool-worker-killed-in-a-job",
        promise: "a pool's worker that is killed during a job costs it an attempt, unnoticed by \
            the caller",
        play: pool_worker_killed_in_a_job::play,
    },
    Scenario {
        name: "pool-worker-killed-while-idle",
        promise: "a pool's worker that is killed while idle is replaced, and no job suffers",
        play: pool_worker_killed_while_idle::play,
    },
    Scenario {
        name: "pool-worker-killed-while-starting",
        promise: "a pool's worker that is killed before it is ready is replaced, and the waiting \
            job is done",
        play: pool_worker_killed_while_starting::play,
    },
    Scenario {
        name: "pool-supervisor-killed",
        promise: "a pool's workers end with its process, even if that is killed, and leave nothing",
        play: pool_supervisor_killed::play,
    },
    Scenario {
        name: "pool-poison-job",
        promise: "a job that kills every worker of a pool ends as a dead letter, and the others \
            are done",
        play: pool_poison_job::play,
    },
    Scenario {
        name: "pool-hung-job",
        promise: "a hung job is ended with its worker, is not tried again, and harms no other",
        play: pool_hung_job::play,
    },
    Scenario {
        name: "pool-memory-hog",
        promise: "a worker that uses too much memory is killed, its job says why, and the next \
            continues",
        play: pool_memory_hog::play,
    },
    Scenario {
        name: "pool-lease",
        promise: "a worker that reports progress keeps its job; one that hangs loses it to another",
        play: pool_lease::play,
    },
    Scenario {
        name: "pool-killed-while-draining",
        promise: "a pool that is killed while it drains leaves no worker and nothing in shared \
            memory",
        play: pool_killed_while_draining::play,
    },
    Scenario {
        name: "pool-program-replaced",
        promise: "a pool's workers run its own program, even after the program's file was replaced",
        play: pool_program_replaced::play,
    },
    Scenario {
        name: "pool-started-by-a-thread",
        promise: "workers live as long as their pool, not as long as the thread that started it",
        play: pool_started_by_a_thread::play,
    },
    Scenario {
        name: "pool-and-other-children",
        promise: "a pool waits for its own workers only, and reaps no other child",
        play: pool_and_other_children::play,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_a_promise() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        assert!(
            SCENARIOS
                .iter()
                .all(|scenario| !scenario.promise.is_empty())
        );
    }

    #[test]
    fn each_file_is_a_scenario_of_that_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scenarios");
        let played = std::fs::read_dir(folder).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem()?.to_str()?.replace('_', "-");
            text.contains("pub fn play(").then_some(name)
        });
        let names = SCENARIOS.iter().map(|scenario| scenario.name.to_owned());
        assert_eq!(played.collect::<BTreeSet<_>>(), names.collect());
    }
}
