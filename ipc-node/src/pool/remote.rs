//! Jobs from programs that did not start the pool.
//!
//! The pool's program serves an address: requests there name a handler and carry an encoded input.
//! Each becomes a job of the pool, and its reply is the job's encoded output. So the guarantees add
//! up: when the pool's program dies, its requests return to their queue, and the next pool that
//! serves the address does them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ipc_proto::codec;
use ipc_queue::transport::Wait;
use ipc_queue::{CodecError, RecvError, SendOptions, ToAddress};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ticket::{Canceller, Entry};
use super::wire::Job;
use super::{Pool, PoolError, Ticket};
use crate::request::{Client, OpenError, PendingReply, Request, RequestError, Server};
use crate::value;

/// A job of another program.
#[derive(Debug, Serialize, Deserialize)]
struct RemoteJob {
    handler: String,
    /// Encoded, as in a job of the pool's own program.
    input: Vec<u8>,
}

/// Serves jobs of other programs: see [`Pool::serve`].
///
/// ```no_run
/// use ipc_node::pool::{Handlers, Pool, PoolServer};
///
/// let mut handlers = Handlers::new();
/// handlers.add("square", |n: u64, _| Ok::<_, String>(n * n));
/// handlers.work_if_worker();
///
/// let pool = Pool::builder().workers(4).start()?;
/// let server = PoolServer::open("shm:squares")?;
/// let stop = server.stop_handle(); // for a thread that handles Ctrl-C
/// pool.serve(server)?; // until it is stopped
/// pool.shutdown()?;
/// # drop(stop);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PoolServer {
    requests: Server<RemoteJob, Vec<u8>>,
    stop: PoolServerStop,
}

/// Ends a [`PoolServer`] from any thread. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PoolServerStop(Arc<AtomicBool>);

/// Submits jobs to the pool of another program.
///
/// ```no_run
/// use ipc_node::pool::PoolClient;
///
/// let pool = PoolClient::open("shm:squares")?;
/// let square: u64 = pool.submit("square", &7_u64)?.wait()?;
/// assert_eq!(square, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PoolClient(Client<RemoteJob, Vec<u8>>);

/// A job that was submitted to the pool of another program. If the ticket is dropped, the job
/// continues, and its answer is dropped.
#[derive(Debug)]
#[must_use = "a job's answer, or its failure, is learned by waiting"]
pub struct RemoteTicket<O> {
    reply: PendingReply<Vec<u8>>,
    output: PhantomData<fn() -> O>,
}

/// A job of another program's pool without a result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RemoteJobError {
    /// The job failed, crashed, was given up or was cancelled; or its request got no reply.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The input has no encoding, or the answer is not a value of the ticket's type.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// How often a server without requests checks whether it is to stop.
const SLICE: Duration = Duration::from_millis(200);

impl Pool {
    /// Runs the jobs that other programs send to `server`, until it is stopped, its queue is closed
    /// and drained, or the pool ends. Returns when the jobs that it took are done.
    ///
    /// Takes twice as many requests at a time as the pool has workers. A request whose pool ended
    /// returns to the queue.
    ///
    /// # Errors
    /// [`RecvError`] if the queue of requests can't be used any more.
    pub fn serve(&self, server: PoolServer) -> Result<(), RecvError> {
        let threads = 2 * self.shared.limits.workers.max(1);
        thread::scope(|scope| {
            let serving: Vec<_> = (0..threads)
                .map(|_| {
                    let (requests, stop) = (server.requests.clone(), server.stop.clone());
                    scope.spawn(move || self.serve_one_at_a_time(&requests, &stop))
                })
                .collect();
            let ends = serving.into_iter().map(|thread| match thread.join() {
                Ok(end) => end,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            // All have ended before the first error is returned.
            let ends: Vec<_> = ends.collect();
            ends.into_iter().collect()
        })
    }

    fn serve_one_at_a_time(
        &self,
        requests: &Server<RemoteJob, Vec<u8>>,
        stop: &PoolServerStop,
    ) -> Result<(), RecvError> {
        while !stop.is_set() && !self.has_ended() {
            let request = match requests.recv_timeout(SLICE) {
                Ok(request) => request,
                Err(error) if error.is_timeout() || error.is_of_one_message() => continue,
                Err(error) if error.is_closed() => return Ok(()),
                Err(error) => match error {
                    ipc_queue::RecvTimeoutError::Failed(error) => return Err(error),
                    _ => continue,
                },
            };
            self.run(request);
        }
        Ok(())
    }

    /// Runs the job of one request and replies. If that fails, the request returns to its queue.
    fn run(&self, request: Request<RemoteJob, Vec<u8>>) {
        let job = request.data();
        let ticket = match self.submit_encoded(&job.handler, &job.input) {
            Ok(ticket) => ticket,
            // Dropping the request returns it for the next pool.
            Err(PoolError::Ended { .. }) => return,
            Err(error) => return told(request.fail(&error.to_string())),
        };
        match ticket.wait_encoded() {
            Ok(output) => told(request.reply(&output)),
            Err(super::JobError::PoolEnded { .. }) => {}
            Err(error) => told(request.fail(&error.to_string())),
        }
    }

    fn submit_encoded(&self, handler: &str, input: &[u8]) -> Result<Ticket<()>, PoolError> {
        let attempts = self.shared.limits.retry.attempts();
        let number = self.submit_numbered(Entry::default(), |ticket| {
            let job = Job {
                ticket,
                handler,
                input,
                attempts,
            };
            self.send(&codec::encode(&job)?, Wait::Forever)
        })?;
        let pool: Arc<dyn Canceller> = Arc::clone(&self.shared) as _;
        Ok(Ticket::new(number, Arc::clone(&self.shared.tickets), pool))
    }
}

fn told(replied: Result<(), crate::request::ReplyError>) {
    if let Err(error) = replied {
        tracing::warn!(target: "ipc_node", %error, "answer to another program's job not sent");
    }
}

impl PoolServer {
    /// Opens the queue of requests at `address`, or creates it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(address: impl ToAddress) -> Result<Self, OpenError> {
        Ok(Self {
            requests: Server::open(address)?,
            stop: PoolServerStop::default(),
        })
    }

    /// Returns a handle that ends [`Pool::serve`].
    #[must_use]
    pub fn stop_handle(&self) -> PoolServerStop {
        self.stop.clone()
    }
}

impl PoolServerStop {
    /// Ends [`Pool::serve`] once the jobs that it took are done. Does not block.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl PoolClient {
    /// Opens the queue of requests at `address`, or creates it: the pool may start later.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(address: impl ToAddress) -> Result<Self, OpenError> {
        Client::open(address).map(Self)
    }

    /// Submits a job for the handler `name`. Waits while the queue of requests is full.
    ///
    /// # Errors
    /// [`RemoteJobError`].
    pub fn submit<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
    ) -> Result<RemoteTicket<O>, RemoteJobError> {
        self.submit_with(name, input, SendOptions::new())
    }

    /// Like [`submit`](Self::submit), with a waiting time, a priority and so on for the request.
    ///
    /// # Errors
    /// [`RemoteJobError`].
    pub fn submit_with<I: Serialize, O>(
        &self,
        name: &str,
        input: &I,
        options: SendOptions,
    ) -> Result<RemoteTicket<O>, RemoteJobError> {
        let job = RemoteJob {
            handler: name.to_owned(),
            input: value::encode(input)?,
        };
        Ok(RemoteTicket {
            reply: self.0.send_with(&job, options)?,
            output: PhantomData,
        })
    }
}

impl<O: DeserializeOwned> RemoteTicket<O> {
    /// Waits for the answer without a limit, even for a pool that is not started yet.
    ///
    /// # Errors
    /// [`RequestError::Failed`] with the reason that the pool gives.
    pub fn wait(self) -> Result<O, RemoteJobError> {
        Ok(value::decode(&self.reply.wait()?)?)
    }

    /// Waits for the answer, for at most `timeout`.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`]; otherwise those of [`wait`](Self::wait).
    pub fn wait_timeout(self, timeout: Duration) -> Result<O, RemoteJobError> {
        Ok(value::decode(&self.reply.wait_timeout(timeout)?)?)
    }

    /// Returns `true` if the answer has come, or cannot come any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reply.is_ready()
    }
}
