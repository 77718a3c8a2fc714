//! A queue's figures for the `metrics` facade, under OpenTelemetry's messaging names where there are such.
//!
//! Pulled: the counters lie in the queue and are the same for all of its processes, so whoever publishes them, publishes
//! what all did, also those that are dead; let one process do it. Nothing is added to what a message costs.
//! For that reason `messaging.client.operation.duration` is not there: nobody takes the time of a send.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::{Label, counter, describe_counter, describe_gauge, gauge};

use crate::stats::QueueStats;
use crate::transport::Transport;

/// Messages sent; `error.type` says why those were not that were refused. OpenTelemetry's.
pub const SENT: &str = "messaging.client.sent.messages";
/// Deliveries, redeliveries included. OpenTelemetry's.
pub const CONSUMED: &str = "messaging.client.consumed.messages";
/// Bytes of payloads, by `messaging.operation.name`.
pub const BYTES: &str = "ipc.queue.bytes";
/// Deliveries that were not their message's first.
pub const REDELIVERED: &str = "ipc.queue.redelivered.messages";
/// Deliveries that ended, by `ipc.outcome`: `ack`, `nack`, `bury`, `expiry`, `crash`.
pub const ENDED: &str = "ipc.queue.ended.deliveries";
/// Messages that nobody got, by `ipc.reason`: `expired`, `purged`, `overflowed`, `duplicate`.
pub const DROPPED: &str = "ipc.queue.dropped.messages";
/// Settlements that came after the lease was lost.
pub const LATE: &str = "ipc.queue.late.settlements";
/// Messages in the queue now, by `ipc.state`: `ready`, `writing`, `leased`, `delayed`, `dead`, `quarantined`.
pub const MESSAGES: &str = "ipc.queue.messages";
/// Processes attached now.
pub const PARTICIPANTS: &str = "ipc.queue.participants";

/// Reports left out because the queue did not answer.
pub const MISSING: &str = "ipc.queue.missing.reports";

/// Publishes the figures of the queue called `queue` through the recorder that is installed.
///
/// ```
/// use ipc_queue::{ByteQueue, metrics};
///
/// let queue = ByteQueue::open("local:figures")?;
/// queue.sender().send(b"one")?;
/// metrics::describe();
/// metrics::publish("local:figures", &queue.transport().stats()?);
/// # ipc_queue::remove("local:figures")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn publish(queue: &str, stats: &QueueStats) {
    let of = |further: &[(&'static str, &'static str)]| {
        let mut labels = vec![
            Label::from_static_parts("messaging.system", "ipc"),
            Label::new("messaging.destination.name", queue.to_owned()),
        ];
        let further = further.iter();
        labels.extend(further.map(|(key, value)| Label::from_static_parts(key, value)));
        labels
    };
    let (send, receive) = (
        ("messaging.operation.name", "send"),
        ("messaging.operation.name", "receive"),
    );
    counter!(SENT, of(&[send])).absolute(stats.sent);
    counter!(SENT, of(&[send, ("error.type", "full")])).absolute(stats.refused);
    counter!(CONSUMED, of(&[receive])).absolute(stats.received);
    counter!(BYTES, of(&[send])).absolute(stats.bytes_sent);
    counter!(BYTES, of(&[receive])).absolute(stats.bytes_received);
    counter!(REDELIVERED, of(&[])).absolute(stats.redelivered);
    counter!(LATE, of(&[])).absolute(stats.leases_lost);
    let ended = [
        ("ack", stats.acked),
        ("nack", stats.nacked),
        ("bury", stats.buried),
        ("expiry", stats.expiries),
        ("crash", stats.crashes),
    ];
    for (outcome, count) in ended {
        counter!(ENDED, of(&[("ipc.outcome", outcome)])).absolute(count);
    }
    let dropped = [
        ("expired", stats.expired),
        ("purged", stats.purged),
        ("overflowed", stats.overflowed),
        ("duplicate", stats.duplicates),
    ];
    for (reason, count) in dropped {
        counter!(DROPPED, of(&[("ipc.reason", reason)])).absolute(count);
    }
    let now = [
        ("ready", stats.ready),
        ("writing", stats.writing),
        ("leased", stats.leased),
        ("delayed", stats.delayed),
        ("dead", stats.dead),
        ("quarantined", stats.quarantined),
    ];
    for (state, count) in now {
        gauge!(MESSAGES, of(&[("ipc.state", state)])).set(count as f64);
    }
    gauge!(PARTICIPANTS, of(&[])).set(stats.participants as f64);
}

/// Publishes the figures of a queue that answers; counts a report that is missing because it does not.
fn report_once(queue: &str, transport: &dyn Transport) {
    match transport.stats() {
        Ok(stats) => publish(queue, &stats),
        Err(_) => {
            let label = Label::new("messaging.destination.name", queue.to_owned());
            counter!(MISSING, vec![label]).increment(1);
        }
    }
}

/// Says what each figure means to the recorder that is installed. Once is enough.
pub fn describe() {
    describe_counter!(SENT, "Messages sent, and refused");
    describe_counter!(CONSUMED, "Deliveries, redeliveries included");
    describe_counter!(BYTES, "Bytes of payloads");
    describe_counter!(REDELIVERED, "Deliveries not their message's first");
    describe_counter!(ENDED, "Deliveries that ended, by outcome");
    describe_counter!(DROPPED, "Messages that nobody got, by reason");
    describe_counter!(LATE, "Settlements after the lease was lost");
    describe_counter!(MISSING, "Reports left out because the queue did not answer");
    describe_gauge!(MESSAGES, "Messages in the queue, by state");
    describe_gauge!(PARTICIPANTS, "Processes attached");
}

/// Publishes a queue's figures again and again, until dropped; then once more.
pub struct Reporter {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Publishes now, and then every so often, from a thread of its own.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(queue: &str, transport: Arc<dyn Transport>, every: Duration) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let queue = queue.to_owned();
        describe();
        let report = move || {
            loop {
                report_once(&queue, &*transport);
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return report_once(&queue, &*transport);
                }
            }
        };
        let thread = thread::Builder::new().name("ipc-metrics".to_owned());
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread.spawn(report)?),
        })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}
