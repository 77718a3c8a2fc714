//! A queue's figures in a `metrics` recorder, after a process was killed.

use std::sync::Arc;
use std::time::Duration;

use ipc_queue::conformance::content;
use ipc_queue::metrics::{self as figures, Reporter, publish};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

use crate::stage::{SMALL, Stage, expect_message, settings, stats};

/// Returns the figure with this name and these labels, apart from the labels that all figures have.
fn figure(snapshotter: &Snapshotter, name: &str, labels: &[(&str, &str)]) -> f64 {
    let all = snapshotter.snapshot().into_vec().into_iter();
    let mut wanted = all.filter(|(key, ..)| {
        let key = key.key();
        let found: Vec<_> = key.labels().map(|l| (l.key(), l.value())).collect();
        let common = [
            ("messaging.system", "ipc"),
            ("messaging.destination.name", "shm:test/jobs"),
        ];
        key.name() == name && found == [&common[..], labels].concat()
    });
    match wanted.next() {
        Some((.., DebugValue::Counter(count))) => count as f64,
        Some((.., DebugValue::Gauge(value))) => value.into_inner(),
        other => panic!("{name} {labels:?}: {other:?}"),
    }
}

#[test]
fn any_process_publishes_the_death_of_another() {
    let stage = Stage::new(&settings(2));
    let mut holder = stage.puppet();
    holder.tell(&format!("send 1 {SMALL}"));
    assert!(holder.hear().starts_with("blocking"));
    holder.expect("sent");
    holder.tell("receive");
    assert!(holder.hear().starts_with("blocking"));
    holder.expect("got 1, attempt 1");
    holder.kill();
    let queue = stage.open();
    expect_message(&queue.receiver(), 1, 2).ack().unwrap();
    queue.sender().try_send(&content(2, SMALL)).unwrap();
    let recorder = DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || publish("shm:test/jobs", &stats(&queue)));
    let send = ("messaging.operation.name", "send");
    let receive = ("messaging.operation.name", "receive");
    assert_eq!(
        figure(&seen, "messaging.client.sent.messages", &[send]),
        2.0
    );
    metrics::with_local_recorder(&recorder, || publish("shm:test/jobs", &stats(&queue)));
    assert_eq!(
        figure(&seen, "messaging.client.consumed.messages", &[receive]),
        2.0
    );
    for (name, label, value) in [
        (figures::ENDED, Some(("ipc.outcome", "crash")), 1.0),
        (figures::ENDED, Some(("ipc.outcome", "ack")), 1.0),
        (figures::REDELIVERED, None, 1.0),
        (figures::MESSAGES, Some(("ipc.state", "ready")), 1.0),
        (figures::PARTICIPANTS, None, 1.0),
    ] {
        metrics::with_local_recorder(&recorder, || publish("shm:test/jobs", &stats(&queue)));
        let labels: Vec<_> = label.into_iter().collect();
        assert_eq!(figure(&seen, name, &labels), value, "{name} {labels:?}");
    }
}

#[test]
fn a_reporter_publishes_once_more_when_it_ends() {
    let stage = Stage::new(&settings(2));
    let queue = stage.open();
    let transport = Arc::clone(queue.transport());
    let hour = Duration::from_secs(3600);
    // The thread has no recorder, so this only checks that it ends.
    let reporter = Reporter::start("shm:test/jobs", transport, hour).unwrap();
    drop(reporter);
}
