//! `doctor`: problems of the machine, of the segments, and of processes that died.
//!
//! Each finding that is not fine includes advice. A test follows the advice and runs `doctor`
//! again.

mod machine;
mod queue;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use comfy_table::Color;
use ipc_node::{Health, Registry};
use ipc_queue::QueueError;
use ipc_queue::shm::Inspector;
use ipc_shm::{Namespace, OpenError, SkipReason, Skipped};
use serde_json::json;

use crate::address;
use crate::exit::Exit;
use crate::show::Show;
use crate::table::{Column, Table, colored, plain};

const COLUMNS: [Column; 3] = [("", 0), ("about", 0), ("what", 0)];

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Fine,
    /// Something to know: it can wait, or the next process that uses the queue repairs it.
    Warn,
    Bad,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }

    fn color(self) -> Color {
        match self {
            Self::Fine => Color::Green,
            Self::Warn => Color::Yellow,
            Self::Bad => Color::Red,
        }
    }
}

struct Finding {
    about: String,
    grade: Grade,
    what: String,
}

impl Finding {
    fn new(about: impl Into<String>, grade: Grade, what: impl Into<String>) -> Self {
        let (about, what) = (about.into(), what.into());
        Self { about, grade, what }
    }

    fn fine(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(about, Grade::Fine, what)
    }

    fn bad(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(about, Grade::Bad, what)
    }
}

/// Searches for problems: of `queues`, or of everything if none is named. With `repair`, it also
/// makes the repairs that the next user of each queue would make.
pub fn doctor(queues: &[String], repair: bool, quiet: bool, show: &Show) -> Result<()> {
    let findings = match queues {
        [] => everything(repair),
        queues => {
            let named = queues.iter();
            named
                .flat_map(|queue| queue::look_at_named(queue, repair))
                .collect()
        }
    };
    report(findings, quiet, show)
}

fn everything(repair: bool) -> Vec<Finding> {
    let mut findings = machine::findings();
    match address::siblings() {
        Ok(found) => {
            for namespace in found.namespaces {
                look_into(&namespace, repair, &mut findings);
            }
            findings.extend(found.skipped.iter().map(skipped));
        }
        Err(error) => findings.push(Finding::bad("namespaces", format!("{error:#}"))),
    }
    findings
}

fn report(mut findings: Vec<Finding>, quiet: bool, show: &Show) -> Result<()> {
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| finding.grade == Grade::Bad)
        .map(|finding| finding.about.clone())
        .collect();
    if quiet {
        findings.retain(|finding| finding.grade == Grade::Bad);
    }
    if !quiet || !findings.is_empty() || show.is_json() {
        print(&findings, show);
    }
    match bad.len() {
        0 => Ok(()),
        count => Err(Exit::Failed.error(format!("{count} findings are bad: {}", bad.join(", ")))),
    }
}

/// Returns the finding about an entry beside the namespaces: an unusable folder may contain queues.
fn skipped(skipped: &Skipped) -> Finding {
    let about = skipped.path.display().to_string();
    let grade = match &skipped.reason {
        SkipReason::Folder(_) if skipped.path.is_dir() => Grade::Bad,
        _ => Grade::Fine,
    };
    Finding::new(about, grade, format!("skipped: {}", skipped.reason))
}

fn print(findings: &[Finding], show: &Show) {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let grade = finding.grade.word();
            json!({ "about": finding.about, "grade": grade, "what": finding.what })
        })
        .collect();
    show.rows(&rows, || {
        let mut table = Table::new(&COLUMNS);
        // The gravest at the end, where a terminal shows them.
        let mut findings: Vec<_> = findings.iter().collect();
        findings.sort_by_key(|finding| finding.grade);
        for finding in findings {
            table.add(vec![
                colored(finding.grade.word(), finding.grade.color()),
                plain(&finding.about),
                plain(&finding.what),
            ]);
        }
        table
    });
}

fn look_into(namespace: &Namespace, repair: bool, findings: &mut Vec<Finding>) {
    machine::clear_up(namespace);
    let about = namespace.name().to_string();
    let queues = match ipc_queue::ShmQueue::list(namespace) {
        Ok(queues) => queues,
        Err(error) => {
            findings.push(Finding::bad(about, error.to_string()));
            return;
        }
    };
    for name in queues {
        let about = address::short(namespace, &name);
        match Inspector::open(namespace, &name) {
            Ok(queue) => findings.extend(queue::look_at(&about, &queue, repair)),
            Err(QueueError::NotFound { .. }) => {}
            Err(error) => {
                let what = format!("{error}; {}", removal(&about, &error));
                findings.push(Finding::bad(about, what));
            }
        }
    }
    findings.extend(look_at_nodes(namespace));
}

/// Returns what to do about an error from opening a queue by its address.
fn remedy_of(about: &str, error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref() {
        Some(QueueError::NotFound { .. }) if about.starts_with("unix:") => Some(format!(
            "no server listens there: ipc serve QUEUE --at {about} starts one"
        )),
        Some(QueueError::NotFound { .. }) => Some(format!("ipc create {about} makes it")),
        Some(found @ QueueError::Open(_)) => Some(removal(about, found)),
        _ => None,
    }
}

/// Returns the command that removes an unusable file with the name of a queue.
fn removal(about: &str, error: &QueueError) -> String {
    match error {
        QueueError::Open(OpenError::NotAFile { path }) if holds_something(path) => {
            let path = path.display();
            format!("look at what is in that folder, then remove it with rm -r {path}")
        }
        _ => format!("ipc rm --force {about} removes it"),
    }
}

fn holds_something(path: &Path) -> bool {
    let is_folder = path.symlink_metadata().is_ok_and(|data| data.is_dir());
    is_folder
        && path
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some())
}

fn look_at_nodes(namespace: &Namespace) -> Option<Finding> {
    let about = format!("{}: nodes", namespace.name());
    match Registry::look(namespace) {
        Ok(None) => None,
        Ok(Some(registry)) => {
            let nodes = registry.nodes(Duration::MAX);
            let dead = nodes.iter().filter(|node| node.health == Health::Dead);
            let (known, dead) = (nodes.len(), dead.count());
            let what =
                format!("{known} known, {dead} of them dead: their places are reused when needed");
            Some(Finding::fine(about, what))
        }
        Err(error) => {
            let what = format!("{error}; delete that file when no node of this namespace runs");
            Some(Finding::bad(about, what))
        }
    }
}
