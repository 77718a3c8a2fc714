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
    let mut found = Findings::new(queue, what.queues.len() > 1);
    found.compare_count("depth", waiting, [what.warn_depth, what.max_depth]);
    found.compare_count("dead", stats.dead, [what.warn_dead, what.max_dead]);
    if let Some(age) = age {
        found.compare_time("age", age, [what.warn_age, what.max_age]);
    } else if what.max_age.or(what.warn_age).is_some() {
        found.grade = found.grade.max(Grade::Unknown);
        let wrong = "the age of messages is known in shared memory only";
        found.wrong.push(wrong.to_owned());
    }
    let text = match found.wrong.is_empty() {
        false => format!("{queue}: {}", found.wrong.join(", ")),
        true => {
            let age = age.map_or_else(String::new, |age| format!(", oldest {}", format::time(age)));
            let state = control::state(&stats);
            format!(
                "{queue}: depth {waiting}, dead {}{age}, {state}",
                stats.dead
            )
        }
    };
    Ok(Checked {
        queue: queue.to_owned(),
        grade: found.grade,
        text,
        figures: found.figures,
        values: Values {
            depth: Some(waiting),
            dead: Some(stats.dead),
            age,
        },
    })
}

/// The comparisons of a queue's figures with their limits. Limits are given as the one for a
/// warning and the critical one.
struct Findings {
    /// The label of a figure begins with this.
    prefix: Option<String>,
    grade: Grade,
    figures: Vec<String>,
    wrong: Vec<String>,
}

impl Findings {
    fn new(queue: &str, is_one_of_several: bool) -> Self {
        Self {
            prefix: is_one_of_several.then(|| queue.to_owned()),
            grade: Grade::Ok,
            figures: Vec::new(),
            wrong: Vec::new(),
        }
    }

    fn compare_count(&mut self, name: &str, found: u64, limits: [Option<u64>; 2]) {
        let limits = limits.map(|limit| limit.map(|limit| (limit as f64, limit.to_string())));
        self.compare(name, (found as f64, found.to_string()), "", limits);
    }

    fn compare_time(&mut self, name: &str, found: Duration, limits: [Option<Duration>; 2]) {
        let both = |time: Duration| (time.as_secs_f64(), format::time(time));
        self.compare(name, both(found), "s", limits.map(|limit| limit.map(both)));
    }

    /// Compares a figure, as a number and in words.
    fn compare(
        &mut self,
        name: &str,
        (found, shown): (f64, String),
        unit: &str,
        limits: [Option<(f64, String)>; 2],
    ) {
        let plain = |limit: &Option<(f64, String)>| {
            let limit = limit.as_ref();
            limit.map_or_else(String::new, |(limit, _)| limit.to_string())
        };
        let [warn, most] = limits.each_ref().map(plain);
        let label = match &self.prefix {
            None => name.to_owned(),
            Some(queue) => format!("'{queue} {name}'"),
        };
        let figure = format!("{label}={found}{unit};{warn};{most}");
        self.figures.push(figure);
        let grades = [Grade::Warning, Grade::Critical];
        for (limit, grade) in limits.into_iter().zip(grades).rev() {
            if let Some((limit, said)) = limit
                && found > limit
            {
                self.grade = self.grade.max(grade);
                self.wrong.push(format!("{name} {shown} is above {said}"));
                return;
            }
        }
    }
}
