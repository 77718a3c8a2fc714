//! `doctor`: what is wrong with the machine, the segments, and those who died.

use std::path::Path;

use anyhow::Result;
use comfy_table::{Cell, Color};
use ipc_node::{Health, Registry};
use ipc_queue::QueueError;
use ipc_queue::shm::Inspector;
use ipc_shm::Namespace;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::sys::utsname::uname;
use serde_json::json;

use crate::Ended;
use crate::address;
use crate::show::{self, Show, colored};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Fine,
    /// The next to use it repairs it.
    Mends,
    Bad,
}

struct Finding {
    about: String,
    grade: Grade,
    what: String,
}

impl Finding {
    fn new(about: impl Into<String>, grade: Grade, what: impl Into<String>) -> Self {
        Self {
            about: about.into(),
            grade,
            what: what.into(),
        }
    }
}

/// Looks for what is wrong; with `repair` also does what the next user of each queue would do.
pub fn doctor(repair: bool, show: Show) -> Result<Ended> {
    let mut findings = machine()?;
    for namespace in address::namespaces(None)? {
        look_into(&namespace, repair, &mut findings);
    }
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| json!({ "about": finding.about, "grade": grade(finding.grade), "what": finding.what }))
        .collect();
    show.rows(&rows, || {
        let mut table = show::table(&["", "about", "what"]);
        for finding in &findings {
            let color = match finding.grade {
                Grade::Fine => Color::Green,
                Grade::Mends => Color::Yellow,
                Grade::Bad => Color::Red,
            };
            let word = colored(grade(finding.grade), color);
            table.add_row(vec![
                word,
                Cell::new(&finding.about),
                Cell::new(&finding.what),
            ]);
        }
        table
    })?;
    let bad = findings.iter().any(|finding| finding.grade == Grade::Bad);
    Ok(if bad { Ended::NotWell } else { Ended::Well })
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Fine => "ok",
        Grade::Mends => "mends",
        Grade::Bad => "bad",
    }
}

fn machine() -> Result<Vec<Finding>> {
    let version = uname()?.release().to_string_lossy().into_owned();
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let grade = if number >= (5, 10) {
        Grade::Fine
    } else {
        Grade::Bad
    };
    let kernel = Finding::new(
        "kernel",
        grade,
        format!("{version}; 5.10 or later is needed"),
    );
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Each queue takes one, each process that is watched one more.
    let grade = if files >= 256 {
        Grade::Fine
    } else {
        Grade::Bad
    };
    let files = Finding::new(
        "open files",
        grade,
        format!(
            "{files} for each process: a queue takes one, and one for each other process there"
        ),
    );
    let versions = format!("ipc {}", env!("CARGO_PKG_VERSION"));
    Ok(vec![
        Finding::new("version", Grade::Fine, versions),
        kernel,
        files,
        memory()?,
    ])
}

fn memory() -> Result<Finding> {
    let any = Namespace::new("default")?.path();
    // The folder of all namespaces, or what it will be made in.
    let folder = any.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("/"));
    let stat = statvfs(folder)?;
    let unit = stat.fragment_size() as u64;
    let (all, free) = (
        stat.blocks() as u64 * unit,
        stat.blocks_available() as u64 * unit,
    );
    let grade = if all > 0 && free < all / 20 {
        Grade::Bad
    } else {
        Grade::Fine
    };
    let what = format!(
        "{} of {} free in {}; what does not fit is refused with these figures, never a SIGBUS",
        show::bytes(free),
        show::bytes(all),
        folder.display()
    );
    Ok(Finding::new("shared memory", grade, what))
}

fn look_into(namespace: &Namespace, repair: bool, findings: &mut Vec<Finding>) {
    let about = namespace.name().to_string();
    let queues = match ipc_queue::ShmQueue::list(namespace) {
        Ok(queues) => queues,
        Err(error) => {
            findings.push(Finding::new(about, Grade::Bad, error.to_string()));
            return;
        }
    };
    for name in queues {
        let about = address::short(namespace, &name);
        match Inspector::open(namespace, &name) {
            Ok(queue) => look_at(&about, &queue, repair, findings),
            Err(QueueError::NotFound { .. }) => {}
            Err(error) => findings.push(Finding::new(
                about,
                Grade::Bad,
                format!(
                    "{error}; ipc rm --force {} removes it",
                    address::short(namespace, &name)
                ),
            )),
        }
    }
    match Registry::look(namespace) {
        Ok(None) => {}
        Ok(Some(registry)) => {
            let nodes = registry.nodes(std::time::Duration::MAX);
            let dead = nodes
                .iter()
                .filter(|node| node.health == Health::Dead)
                .count();
            let what = format!(
                "{} nodes known, {dead} of them dead: their places are taken over when needed",
                nodes.len()
            );
            findings.push(Finding::new(format!("{about}: nodes"), Grade::Fine, what));
        }
        Err(error) => findings.push(Finding::new(
            format!("{about}: nodes"),
            Grade::Bad,
            error.to_string(),
        )),
    }
}

fn look_at(about: &str, queue: &Inspector, repair: bool, findings: &mut Vec<Finding>) {
    let gone = queue.participants().into_iter().filter(|(_, gone)| *gone);
    let gone: Vec<_> = gone
        .map(|(slot, _)| format!("{} (pid {})", slot.name, slot.process.pid))
        .collect();
    let stats = queue.stats();
    if !gone.is_empty() {
        let who = gone.join(", ");
        let what = if repair && address::open(about).is_ok() {
            format!("{who} died: what they held was freed")
        } else {
            format!(
                "{who} died: what they held, up to {} messages, is freed by whoever uses the queue next, or by --repair",
                stats.leased + stats.writing
            )
        };
        findings.push(Finding::new(about, Grade::Mends, what));
    }
    if stats.dead > 0 {
        let what = format!(
            "{} of {} places are dead letters': see ipc dlq ls {about}",
            stats.dead,
            queue.settings().capacity
        );
        let full = stats.dead >= u64::from(queue.settings().capacity);
        findings.push(Finding::new(
            about,
            if full { Grade::Bad } else { Grade::Mends },
            what,
        ));
    }
    if stats.closed || stats.paused {
        let what = if stats.closed {
            "it is closed: it takes nothing more"
        } else {
            "it is paused: it delivers nothing until ipc resume"
        };
        findings.push(Finding::new(about, Grade::Fine, what));
    }
    if gone.is_empty() && stats.dead == 0 && !stats.closed && !stats.paused {
        let what = format!(
            "{} processes attached, {} messages",
            stats.participants,
            stats.in_use()
        );
        findings.push(Finding::new(about, Grade::Fine, what));
    }
}
