//! `check`: tells monitoring programs whether queues are within limits.
//!
//! The exit codes are those of Nagios plugins, not those of the other commands.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::address::Subject;
use crate::cli;
use crate::control;
use crate::exit::{self, Exit};
use crate::format;
use crate::show::Show;

/// The exit code when the state of a queue can't be determined.
pub const UNKNOWN: u8 = 3;

/// The state of a queue, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Ok,
    Warning,
    /// The requested figure is not known.
    Unknown,
    Critical,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => UNKNOWN,
        }
    }
}

/// The result for one queue.
struct Checked {
    queue: String,
    grade: Grade,
    /// The problems found, or else the queue's state.
    text: String,
    /// `label=value;warn;critical`, the format that monitoring programs plot.
    figures: Vec<String>,
    /// The same for programs; null if unknown.
    values: Values,
}

#[derive(Default)]
struct Values {
    depth: Option<u64>,
    dead: Option<u64>,
    age: Option<Duration>,
}

pub fn check(what: &cli::Check, show: &Show) -> Result<()> {
    let checked = what.queues.iter().map(|queue| {
        check_queue(queue, what).unwrap_or_else(|error| Checked {
            grade: Grade::Unknown,
            queue: queue.clone(),
            text: format!("{queue}: {}", exit::in_one_line(&error)),
            figures: Vec::new(),
            values: Values::default(),
        })
    });
    let checked: Vec<_> = checked.collect();
    let worst = checked
        .iter()
        .map(|one| one.grade)
        .max()
        .unwrap_or(Grade::Unknown);
    let of_worst = checked.iter().filter(|one| one.grade == worst);
    let texts: Vec<_> = of_worst.map(|one| &one.text[..]).collect();
    let figures: Vec<_> = checked
        .iter()
        .flat_map(|one| &one.figures[..])
        .cloned()
        .collect();
    let value = json!({
        "state": worst.word(),
        "queues": checked.iter().map(|one| {
            json!({
                "queue": one.queue,
                "state": one.grade.word(),
                "text": one.text,
                "depth": one.values.depth,
                "dead": one.values.dead,
                "age_seconds": one.values.age.map(|age| age.as_secs_f64()),
            })
        }).collect::<Vec<_>>(),
    });
    let line = format!("{} - {}", worst.word(), texts.join("; "));
    show.say(&value, || match figures.is_empty() {
        true => line.clone(),
        // A bar within the text would be taken for the start of the figures.
        false => format!("{} | {}", line.replace('|', "/"), figures.join(" ")),
    });
    match worst {
        Grade::Ok => Ok(()),
        bad => Err(Exit::Check(bad.code()).error(line)),
    }
}

fn check_queue(queue: &str, what: &cli::Check) -> Result<Checked> {
    let subject = Subject::open(queue)?;
    let stats = subject.stats()?;
    let waiting = stats.ready + stats.delayed;
    let age = match &subject {
        Subject::Mapped(_) => Some(subject.oldest().map_or(Duration::ZERO, format::age)),
        Subject::Asked(_) => None,
    };
    let mut checked = Checked {
        queue: queue.to_owned(),
        grade: Grade::Ok,
        text: String::new(),
        figures: Vec::new(),
        values: Values {
            depth: Some(waiting),
            dead: Some(stats.dead),
            age,
        },
    };
    let mut wrong = Vec::new();
    let mut compare =
        |name: &str, found: f64, shown: String, unit: &str, limits: [Option<(f64, String)>; 2]| {
            let plain = limits.each_ref().map(|limit| {
                limit
                    .as_ref()
                    .map_or_else(String::new, |(limit, _)| limit.to_string())
            });
            let label = match what.queues.len() {
                1 => name.to_owned(),
                _ => format!("'{queue} {name}'"),
            };
            checked
                .figures
                .push(format!("{label}={found}{unit};{};{}", plain[0], plain[1]));
            for (limit, grade) in limits
                .into_iter()
                .zip([Grade::Warning, Grade::Critical])
                .rev()
            {
                if let Some((limit, said)) = limit
                    && found > limit
                {
                    checked.grade = checked.grade.max(grade);
                    wrong.push(format!("{name} {shown} is above {said}"));
                    return;
                }
            }
        };
    let count = |limit: Option<u64>| limit.map(|limit| (limit as f64, limit.to_string()));
    let time =
        |limit: Option<Duration>| limit.map(|limit| (limit.as_secs_f64(), format::time(limit)));
    compare(
        "depth",
        waiting as f64,
        waiting.to_string(),
        "",
        [count(what.warn_depth), count(what.max_depth)],
    );
    compare(
        "dead",
        stats.dead as f64,
        stats.dead.to_string(),
        "",
        [count(what.warn_dead), count(what.max_dead)],
    );
    if let Some(age) = age {
        let limits = [time(what.warn_age), time(what.max_age)];
        compare("age", age.as_secs_f64(), format::time(age), "s", limits);
    } else if what.max_age.or(what.warn_age).is_some() {
        checked.grade = checked.grade.max(Grade::Unknown);
        wrong.push("the age of messages is known in shared memory only".to_owned());
    }
    let state = control::state(&stats);
    checked.text = match wrong.is_empty() {
        false => format!("{queue}: {}", wrong.join(", ")),
        true => {
            let age = age.map_or_else(String::new, |age| format!(", oldest {}", format::time(age)));
            format!(
                "{queue}: depth {waiting}, dead {}{age}, {state}",
                stats.dead
            )
        }
    };
    Ok(checked)
}
