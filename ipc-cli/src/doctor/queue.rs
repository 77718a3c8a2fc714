//! Problems of one queue: missing room, refused operations, and processes that hold messages.

use anyhow::Result;
use ipc_proto::QueueSettings;
use ipc_queue::QueueStats;
use ipc_queue::shm::Inspector;

use super::{Finding, Grade};
use crate::address::{self, Subject};
use crate::exit;
use crate::format;
use crate::held::Health;

/// Returns the findings about a queue that the user named, of any transport.
pub fn look_at_named(queue: &str, repair: bool) -> Vec<Finding> {
    look(queue, repair).unwrap_or_else(|error| {
        let mut what = exit::in_one_line(&error);
        if let Some(command) = super::remedy_of(queue, &error) {
            what = format!("{what}; {command}");
        }
        vec![Finding::bad(queue, what)]
    })
}

fn look(queue: &str, repair: bool) -> Result<Vec<Finding>> {
    let subject = Subject::open(queue)?;
    Ok(match &subject {
        Subject::Mapped(inspector) => look_at(queue, inspector, repair),
        Subject::Asked(_) => {
            let stats = subject.stats()?;
            or_fine(queue, &stats, states(queue, &stats, subject.capacity()))
        }
    })
}

/// Returns the findings about a queue in shared memory; if there is no problem, a single one that
/// says so.
pub fn look_at(about: &str, queue: &Inspector, repair: bool) -> Vec<Finding> {
    let mut findings: Vec<_> = dead_processes(about, queue, repair).into_iter().collect();
    let stats = queue.stats();
    let rings = if queue.settings().priorities { 4 } else { 1 };
    let capacity = u64::from(queue.settings().capacity) * rings;
    findings.extend(states(about, &stats, capacity));
    findings.extend(payload_memory(about, queue));
    findings.extend(slots(about, queue));
    findings.extend(stopped_holders(about, queue));
    or_fine(about, &stats, findings)
}

fn or_fine(about: &str, stats: &QueueStats, mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.is_empty() {
        let what = format!(
            "{} processes attached, {} messages",
            stats.participants,
            stats.in_use()
        );
        findings.push(Finding::fine(about, what));
    }
    findings
}

/// Returns the findings that follow from the counters, for any transport.
fn states(about: &str, stats: &QueueStats, capacity: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_full_of_dead = stats.dead >= capacity;
    if stats.dead > 0 {
        let what = format!(
            "{} of {capacity} places hold dead letters: ipc dlq ls {about} lists them, \
             ipc dlq requeue {about} --all or ipc dlq drop {about} --all settles them",
            stats.dead
        );
        let grade = if is_full_of_dead {
            Grade::Bad
        } else {
            Grade::Warn
        };
        findings.push(Finding::new(about, grade, what));
    }
    if stats.in_use() >= capacity && !is_full_of_dead {
        let what = format!(
            "all {capacity} places are taken ({} ready, {} held, {} delayed, {} dead), so senders \
             wait or are refused: start receivers, or ipc move {about} NEW --capacity {}",
            stats.ready,
            stats.leased,
            stats.delayed,
            stats.dead,
            2 * capacity
        );
        findings.push(Finding::new(about, Grade::Warn, what));
    }
    if stats.closed {
        let what = format!("it is closed and takes nothing more until ipc reopen {about}");
        findings.push(Finding::new(about, Grade::Warn, what));
    }
    if stats.paused {
        let what = format!("it is paused and delivers nothing until ipc resume {about}");
        findings.push(Finding::new(about, Grade::Warn, what));
    }
    findings
}

/// Reports that a payload of the permitted size finds no memory now.
fn payload_memory(about: &str, queue: &Inspector) -> Option<Finding> {
    let (pool, settings) = (queue.pool(), queue.settings());
    let largest = u64::from(settings.max_message_bytes);
    if pool.used_bytes == 0 || pool.largest_fit_bytes >= largest {
        return None;
    }
    let what = format!(
        "{} of {} of payload memory are used, so a payload above {} waits or is refused: \
         start receivers, or ipc move {about} NEW --pool-bytes {}",
        format::bytes(pool.used_bytes),
        format::bytes(pool.total_bytes),
        format::bytes(pool.largest_fit_bytes),
        2 * settings.pool_bytes
    );
    Some(Finding::new(about, Grade::Warn, what))
}

/// Slots of programs; tools have some of their own behind them.
fn slots(about: &str, queue: &Inspector) -> Option<Finding> {
    let most = queue.settings().max_participants;
    let attached = queue.participants().into_iter();
    let programs = attached.filter(|(slot, _)| slot.member.index < most);
    (programs.count() >= usize::from(most)).then(|| {
        let more = most.saturating_mul(2).min(QueueSettings::MAX_PARTICIPANTS);
        let what = format!(
            "all {most} participant slots are taken, so no other program can open it: ipc stat \
             {about} lists the processes; end some, or end all and ipc move {about} NEW \
             --max-participants {more}"
        );
        Finding::bad(about, what)
    })
}

/// Reports holders that a signal or a debugger stopped.
fn stopped_holders(about: &str, queue: &Inspector) -> Vec<Finding> {
    let views = queue.lease_views().into_iter();
    let stopped =
        views.filter(|one| Health::of(&one.holder.process, one.is_gone) == Health::Stopped);
    stopped
        .map(|one| {
            let what = format!(
                "{name} (pid {pid}) is stopped and holds message {id}: kill -CONT {pid} lets it \
                 run, ipc revoke {about} {id} gives the message to another receiver",
                name = one.holder.name,
                pid = one.holder.process.pid,
                id = one.message
            );
            Finding::new(about, Grade::Warn, what)
        })
        .collect()
}

fn dead_processes(about: &str, queue: &Inspector, repair: bool) -> Option<Finding> {
    let gone = queue.participants().into_iter().filter(|(_, gone)| *gone);
    let gone: Vec<_> = gone
        .map(|(slot, _)| format!("{} (pid {})", slot.name, slot.process.pid))
        .collect();
    if gone.is_empty() {
        return None;
    }
    let who = gone.join(", ");
    let stats = queue.stats();
    let what = if repair && address::open(about).is_ok() {
        format!("{who} died: what they held was freed")
    } else {
        format!(
            "{who} died: what they held, up to {} messages, is freed by the next process that uses \
             the queue, or by ipc doctor --repair",
            stats.leased + stats.writing
        )
    };
    Some(Finding::new(about, Grade::Warn, what))
}
