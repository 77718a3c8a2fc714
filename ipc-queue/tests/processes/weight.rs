//! The cost of an open queue for its process.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use ipc_queue::RecvTimeoutError;
use nix::unistd::Pid;

use crate::stage::{SMALL, Stage, settings};

fn descriptors(pid: Pid) -> Vec<PathBuf> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    // A descriptor that was closed meanwhile is left out.
    all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .collect()
}

#[test]
fn a_queue_costs_one_descriptor_and_one_for_each_peer() {
    let stage = Stage::new(&settings(8));
    let mut first = stage.puppet();
    let mut others = [stage.puppet(), stage.puppet()];
    for puppet in others.iter_mut().chain([&mut first]) {
        puppet.tell(&format!("send 1 {SMALL}"));
        assert!(puppet.hear().starts_with("blocking"));
        puppet.expect("sent");
    }
    let found = descriptors(first.pid());
    let named = |part: &str| {
        let those = found
            .iter()
            .filter(|path| path.to_string_lossy().contains(part));
        those.count()
    };
    assert_eq!(named("jobs.queue"), 1, "{found:?}");
    // The descriptor that wakes the watcher, and those of the processes that it watches.
    assert!(named("eventfd") <= 1, "{found:?}");
    assert!(named("pidfd") <= others.len(), "{found:?}");
}

/// Returns the number of this process's threads with that name.
fn threads_called(name: &str) -> usize {
    let all = fs::read_dir("/proc/self/task").unwrap();
    let names = all.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

/// Counts how often a future is woken.
#[derive(Default)]
struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_hundred_waiting_futures_cost_one_thread_and_no_polls() {
    const COUNT: usize = 100;
    let stage = Stage::new(&settings(8));
    let queue = stage.open();
    let mut receivers: Vec<_> = (0..COUNT).map(|_| queue.receiver()).collect();
    let calls = Arc::new(Calls::default());
    let waker = Waker::from(Arc::clone(&calls));
    let mut context = Context::from_waker(&waker);
    let mut waiting: Vec<_> = receivers
        .iter_mut()
        .map(|receiver| Box::pin(receiver.recv_async()))
        .collect();
    for future in &mut waiting {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    // A blocked handle of the same queue sleeps for the same time, longer than any slice.
    let blocked = queue.receiver();
    let nothing = blocked.recv_timeout(Duration::from_secs(1));
    assert!(
        matches!(nothing, Err(RecvTimeoutError::TimedOut { .. })),
        "{nothing:?}"
    );
    assert_eq!(threads_called("ipc-notifier"), 1);
    let woken = calls.0.load(Ordering::SeqCst);
    assert!(woken <= 3 * COUNT, "woken {woken} times without a message");
    drop(waiting);
}
