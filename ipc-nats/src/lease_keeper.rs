//! Keeps leases: tells the server that messages are still held, and returns those that are held too
//! long.
//!
//! One task for each opened queue. The server hands a message out again when it has not heard of it
//! for [`ack_wait`]. So a holder that dies, or is cut off, loses the message then. One that lives
//! keeps it for as long as its lease says.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::content::Content;
use crate::priority_stream::ack_wait;
use crate::record::State;
use crate::repair::given_up_after;
use crate::settle::{End, PROGRESS};
use crate::shared::{Held, Shared};

/// The longest pause, so that the task ends when the queue is no longer open.
const SLICE: Duration = Duration::from_secs(1);

pub(crate) async fn keep(shared: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(queue) = shared.upgrade() else {
            return;
        };
        let next = look(&queue).await;
        drop(queue);
        let limit = next.map_or(SLICE, |next| next.saturating_duration_since(Instant::now()));
        let _ = tokio::time::timeout(limit.min(SLICE), changed.notified()).await;
    }
}

/// Does everything that is due, and returns when the next thing is.
async fn look(queue: &Arc<Shared>) -> Option<Instant> {
    let wait = ack_wait(&queue.entry.settings);
    let now = Instant::now();
    let over = |held: &Held| held.ends_at.is_some_and(|ends_at| ends_at <= now);
    let (expired, tell, next) = {
        let mut table = queue.held();
        let expired: Vec<Held> = table
            .extract_if(|_, held| over(held))
            .map(|(_, held)| held)
            .collect();
        let mut tell = Vec::new();
        for held in table.values_mut() {
            if report_at(held, wait).is_some_and(|at| at <= now) {
                held.reported_at = now;
                tell.push(held.reply.clone());
            }
        }
        let times = table
            .values()
            .flat_map(|held| [report_at(held, wait), held.ends_at]);
        (expired, tell, times.flatten().min())
    };
    for reply in tell {
        let _ = queue
            .connection
            .client
            .publish(reply, PROGRESS.into())
            .await;
    }
    renew_loans(queue).await;
    for held in expired {
        // If this fails, the server hands the message out again in time.
        let _ = queue.end(held, End::Expire).await;
    }
    next
}

/// Confirms, for places on loan, that their lender lives.
async fn renew_loans(queue: &Arc<Shared>) {
    let now = Instant::now();
    let mut due = Vec::new();
    for (ticket, lent) in queue.loans().iter_mut() {
        if now >= lent.since + given_up_after() / 3 {
            lent.since = now;
            due.push((
                *ticket,
                lent.stream,
                lent.key.clone(),
                lent.seq,
                lent.options.kind,
            ));
        }
    }
    for (ticket, stream, key, seq, kind) in due {
        let record = queue.record(State::Writing, kind);
        let written = queue.streams[stream].write(
            &key,
            seq,
            &record,
            Content::default(),
            queue.connection.soon(),
        );
        if let Ok(seq) = written.await
            && let Some(lent) = queue.loans().get_mut(&ticket)
        {
            lent.seq = seq;
        }
    }
}

/// When the server needs the next sign of life; `None`: never again.
fn report_at(held: &Held, wait: Duration) -> Option<Instant> {
    let forgotten_at = held.reported_at + wait;
    let needed = held
        .ends_at
        .is_none_or(|ends_at| ends_at + wait / 4 > forgotten_at);
    needed.then(|| held.reported_at + wait / 4)
}
