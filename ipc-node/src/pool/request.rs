//! Requests: jobs as types, each of which says who handles it and what the answer is.

use std::fmt::Display;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, Handlers, Pool, PoolError, Ticket};

/// A job as a value: the handler's name and the answer's type go with its own.
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
    /// The name that its handler has.
    const HANDLER: &'static str;
    /// What its handler answers.
    type Reply: Serialize + DeserializeOwned;

    /// In which time a worker must have begun with it, or nobody wants it any more. `None`: at any time.
    fn begin_within(&self) -> Option<Duration> {
        None
    }
}

impl Pool {
    /// Has some worker answer a request. Waits while the queue of jobs is full.
    ///
    /// The first answer is the answer; whatever comes later is counted ([`PoolStatus`](super::PoolStatus)) and dropped.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn request<R: Request>(&self, request: &R) -> Result<Ticket<R::Reply>, PoolError> {
        match request.begin_within() {
            None => self.submit(R::HANDLER, request),
            Some(time) => self.submit_expiring(R::HANDLER, request, time),
        }
    }
}

impl Handlers {
    /// Answers requests of a type, as [`add`](Self::add) handles jobs of a name.
    pub fn reply<R: Request, E: Display>(
        &mut self,
        run: impl Fn(R, &Context<'_>) -> Result<R::Reply, E> + Send + Sync + 'static,
    ) -> &mut Self {
        self.add(R::HANDLER, run)
    }
}
