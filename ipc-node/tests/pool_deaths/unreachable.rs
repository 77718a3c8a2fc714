//! Queues that do not answer control calls, for a while or forever: the pool guesses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ipc_node::pool::{Pool, PoolBuilder, PoolError, Ticket};
use ipc_queue::transport::{Connector, OpenRequest, ReceivePort, SendPort, Transport, register};
use ipc_queue::{
    Capabilities, ControlCall, ControlError, ControlFailure, DeadLetter, DeadLetterId, LocalQueue,
    Name, Outcome, QueueError, QueueSettings, QueueStats,
};

use crate::support::{PATIENCE, handlers, said_in, until, wait};

/// A queue of this process behind a connection that may stop answering.
#[derive(Debug)]
struct Distant {
    queue: LocalQueue,
    name: Name,
    is_silent: Arc<AtomicBool>,
}

/// Queues whose control calls are answered unless the flag is set.
#[derive(Debug)]
struct Connection {
    is_silent: Arc<AtomicBool>,
}

/// The number of calls to close a queue that were not answered.
static NOT_CLOSED: AtomicUsize = AtomicUsize::new(0);

fn ask(is_silent: &AtomicBool, name: &Name, call: ControlCall) -> Result<(), ControlError> {
    if !is_silent.load(Ordering::SeqCst) {
        return Ok(());
    }
    if call == ControlCall::Close && name.as_str().contains("hesitant") {
        NOT_CLOSED.fetch_add(1, Ordering::SeqCst);
    }
    let failure = ControlFailure::Unreachable {
        request: "a question".to_owned(),
        waited: Duration::ZERO,
        reason: "silence".to_owned(),
        outcome: Outcome::NotDone,
    };
    Err(failure.of(name.as_str(), call))
}

impl Distant {
    fn ask(&self, call: ControlCall) -> Result<&LocalQueue, ControlError> {
        ask(&self.is_silent, &self.name, call).map(|()| &self.queue)
    }
}

impl Transport for Distant {
    fn settings(&self) -> &QueueSettings {
        self.queue.settings()
    }

    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn id(&self) -> u64 {
        self.queue.id()
    }

    fn sender(&self) -> Box<dyn SendPort> {
        self.queue.sender()
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        self.queue.receiver()
    }

    fn address(&self) -> String {
        format!("distant:{}", self.name)
    }

    fn close(&self) -> Result<(), ControlError> {
        self.ask(ControlCall::Close)?.close()
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.ask(ControlCall::Reopen)?.reopen()
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.ask(ControlCall::Stats)?.stats()
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.ask(ControlCall::DeadLetters)?.dead_letters()
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.ask(ControlCall::Requeue)?.requeue(id)
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.ask(ControlCall::Discard)?.discard(id)
    }
}

impl Connector for Connection {
    fn open(&self, rest: &str, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        let name = Name::new(rest)?;
        Ok(Arc::new(Distant {
            queue: LocalQueue::open(&name, request)?,
            name,
            is_silent: Arc::clone(&self.is_silent),
        }))
    }

    fn remove(&self, rest: &str) -> Result<bool, ControlError> {
        let name = Name::new(rest).expect("a name that was opened");
        ask(&self.is_silent, &name, ControlCall::Remove)?;
        Ok(LocalQueue::remove(&name))
    }
}

/// Returns a pool whose queues are behind its own connection, and the flag that silences it.
fn distant(scheme: &str) -> (PoolBuilder, Arc<AtomicBool>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let connection = Connection {
        is_silent: Arc::clone(&is_silent),
    };
    register(scheme, Arc::new(connection));
    let pool = Pool::builder()
        .at(&format!("{scheme}:pool-behind-{scheme}"))
        .threads(handlers())
        .workers(2)
        .drain_timeout(Duration::from_millis(300));
    (pool, is_silent)
}

#[test]
fn shutdown_is_an_error_while_the_queue_does_not_answer() {
    let (pool, is_silent) = distant("silent");
    let pool = pool.start().unwrap();
    let ticket: Ticket<u64> = pool.submit_timeout("square", 3_u64, PATIENCE).unwrap();
    assert_eq!(wait(ticket), Ok(9));
    is_silent.store(true, Ordering::SeqCst);
    assert!(matches!(pool.status(), Err(ControlError { .. })));
    assert!(matches!(pool.stats(), Err(ControlError { .. })));
    let closed = pool.close();
    assert!(
        matches!(
            closed,
            Err(ControlError {
                call: ControlCall::Close,
                ..
            })
        ),
        "{closed:?}"
    );
    let ended = pool.wait();
    let Err(PoolError::Ended { reason }) = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("silence"), "{reason}");
}

#[test]
fn shutdown_continues_when_the_queue_answers_again() {
    let (pool, is_silent) = distant("hesitant");
    let pool = pool.drain_timeout(PATIENCE).start().unwrap();
    is_silent.store(true, Ordering::SeqCst);
    assert!(pool.close().is_err());
    until("its own thread asks, too", || {
        NOT_CLOSED.load(Ordering::SeqCst) > 1
    });
    let handle = std::thread::spawn(move || pool.wait());
    is_silent.store(false, Ordering::SeqCst);
    until("it ends", || handle.is_finished());
    handle.join().unwrap().unwrap();
}

#[test]
fn queues_that_cannot_be_removed_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let (pool, is_silent) = distant("sticky");
    let pool = pool.drain_timeout(PATIENCE).start().unwrap();
    let staying: Ticket<()> = pool.submit("stay", &file).unwrap();
    said_in(file.as_ref());
    pool.close().unwrap();
    is_silent.store(true, Ordering::SeqCst);
    std::fs::remove_file(&file).unwrap();
    let ended = pool.wait();
    assert_eq!(wait(staying), Ok(()));
    let Err(PoolError::Ended { reason }) = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("could not be removed"), "{reason}");
    assert!(LocalQueue::remove(
        &Name::new("pool-behind-sticky.jobs").unwrap()
    ));
}
