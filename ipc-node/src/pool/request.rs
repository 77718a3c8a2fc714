//! Requests: jobs as types, each with its handler's name and its answer's type.

use std::fmt::Display;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, Handlers, Pool, PoolError, Ticket};

/// A job as a value. Its type determines the handler's name and the answer's type.
///
/// ```no_run
/// use ipc_node::pool::{Handlers, Pool, Request};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Square(u64);
///
/// impl Request for Square {
///     const HANDLER: &'static str = "square";
///     type Reply = u64;
/// }
///
/// let mut handlers = Handlers::new();
/// handlers.reply(|Square(n), _| Ok::<_, String>(n * n));
/// handlers.work_if_worker(); // in a worker this does not return
///
/// let pool = Pool::builder().workers(4).start()?;
/// assert_eq!(pool.request(&Square(7))?.wait()?, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Request: Serialize + DeserializeOwned {
    /// The name of its handler.
    const HANDLER: &'static str;
    /// The type of the answer.
    type Reply: Serialize + DeserializeOwned;

    /// Returns the time within which a worker must begin the job, or it is no longer wanted.
    /// `None`: no limit.
    fn begin_within(&self) -> Option<Duration> {
        None
    }
}

impl Pool {
    /// Submits a request to the workers. Waits while the job queue is full.
    ///
    /// The first answer counts. Later ones are counted ([`PoolStatus`](super::PoolStatus)) and
    /// dropped.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit).
    pub fn request<R: Request>(&self, request: &R) -> Result<Ticket<R::Reply>, PoolError> {
        match request.begin_within() {
            None => self.submit(R::HANDLER, request),
            Some(time) => self.submit_expiring(R::HANDLER, request, time),
        }
    }
}

impl Handlers {
    /// Adds a handler for requests of a type, as [`add`](Self::add) does for jobs with a name.
    pub fn reply<R: Request, E: Display>(
        &mut self,
        run: impl Fn(R, &Context<'_>) -> Result<R::Reply, E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.add(R::HANDLER, run)
    }
}
