//! A queue's figures for the `metrics` facade, under OpenTelemetry's messaging names where these
//! exist.
//!
//! Figures are pulled: the counters are in the queue and shared by all its processes. So one
//! process publishes the work of all, including processes that are dead; let only one do it. A
//! message costs no more because of it. For the same reason there is no
//! `messaging.client.operation.duration`: sends are not timed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::{Label, counter, describe_counter, describe_gauge, gauge};

use crate::contract::Transport;
use crate::stats::QueueStats;

/// Messages sent. Refused ones have the label `error.type` with the reason. OpenTelemetry's name.
pub const SENT: &str = "messaging.client.sent.messages";
/// Deliveries, including redeliveries. OpenTelemetry's name.
pub const CONSUMED: &str = "messaging.client.consumed.messages";
/// Bytes of payloads, by `messaging.operation.name`.
pub const BYTES: &str = "ipc.queue.bytes";
/// Deliveries other than the first of their message.
pub const REDELIVERED: &str = "ipc.queue.redelivered.messages";
/// Deliveries that ended, by `ipc.outcome`: `ack`, `nack`, `bury`, `expiry`, `crash`.
pub const ENDED: &str = "ipc.queue.ended.deliveries";
/// Messages dropped before they were received, by `ipc.reason`: `expired`, `purged`, `overflowed`,
/// `duplicate`.
pub const DROPPED: &str = "ipc.queue.dropped.messages";
/// Settlements that came after the lease was lost.
pub const LATE: &str = "ipc.queue.late.settlements";
/// Messages in the queue now, by `ipc.state`: `ready`, `writing`, `leased`, `delayed`, `dead`,
/// `quarantined`.
pub const MESSAGES: &str = "ipc.queue.messages";
/// Processes attached now.
pub const PARTICIPANTS: &str = "ipc.queue.participants";

/// Reports left out because the queue did not answer.
pub const MISSING: &str = "ipc.queue.missing.reports";

/// Publishes the figures of the queue `queue` through the installed recorder.
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

/// Publishes the figures of a queue; if the queue does not answer, counts a missing report.
fn report_once(queue: &str, transport: &dyn Transport) {
    match transport.stats() {
        Ok(stats) => publish(queue, &stats),
        Err(_) => {
            let label = Label::new("messaging.destination.name", queue.to_owned());
            counter!(MISSING, vec![label]).increment(1);
        }
    }
}

/// Describes each figure to the installed recorder. Needed only once.
pub fn describe() {
    describe_counter!(SENT, "Messages sent, and refused");
    describe_counter!(CONSUMED, "Deliveries, including redeliveries");
    describe_counter!(BYTES, "Bytes of payloads");
    describe_counter!(REDELIVERED, "Deliveries other than their message's first");
    describe_counter!(ENDED, "Deliveries that ended, by outcome");
    describe_counter!(
        DROPPED,
        "Messages dropped before they were received, by reason"
    );
    describe_counter!(LATE, "Settlements after the lease was lost");
    describe_counter!(MISSING, "Reports left out because the queue did not answer");
    describe_gauge!(MESSAGES, "Messages in the queue, by state");
    describe_gauge!(PARTICIPANTS, "Processes attached");
}

/// Publishes a queue's figures periodically, and once more when it is dropped.
pub struct Reporter {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Publishes now and then every `every`, from a separate thread.
    ///
    /// # Errors
    /// If the thread cannot be started.
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
