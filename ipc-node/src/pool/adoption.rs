//! What a new pool does with the jobs that a dead pool left at its address.

use std::sync::atomic::Ordering;

use ipc_queue::transport::Wait;
use ipc_queue::{DeadLetter, SendOptions};

use super::dead_letters::renumbered;
use super::events;
use super::leftovers::{LeftoverJobs, Leftovers};
use super::state::Shared;

/// Treats the jobs as `what` says, before the pool has workers.
pub(super) fn adopt(leftovers: Leftovers, what: LeftoverJobs, shared: &Shared) {
    if leftovers.count() == 0 {
        return;
    }
    events::leftover_jobs(
        &shared.config,
        &leftovers.waiting,
        &leftovers.dead,
        leftovers.held,
        what,
    );
    let mut dropped = 0;
    for letter in leftovers.waiting {
        let is_sent = what == LeftoverJobs::Run && send_again(&letter, shared);
        if !is_sent && what != LeftoverJobs::Drop {
            dropped += shared.dead_letters.add(letter);
        }
    }
    if what != LeftoverJobs::Drop {
        for letter in leftovers.dead {
            dropped += shared.dead_letters.add(letter);
        }
    }
    if dropped > 0 {
        events::dead_letters_dropped(&shared.config, dropped);
    }
}

/// Sends a job under a ticket number without a ticket. Returns `false` if it cannot be sent now.
fn send_again(letter: &DeadLetter, shared: &Shared) -> bool {
    let ticket = shared.next_ticket.fetch_add(1, Ordering::Relaxed);
    let Some(job) = renumbered(&letter.payload, ticket) else {
        return false;
    };
    shared.tickets.adopt(ticket);
    let sender = shared.queues.jobs.sender();
    let is_sent = sender
        .send_with(&job, &SendOptions::new().kind(letter.kind).wait(Wait::No))
        .is_ok();
    if !is_sent {
        shared.tickets.lock().remove(&ticket);
    }
    is_sent
}
