//! The server: receives requests and sends replies.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_proto::Encoding;
use ipc_queue::{
    Address, ByteQueue, Headers, OwnedDelivery, Queue, QueueOptions, Receiver, RecvError,
    RecvTimeoutError, SendFailure, SendOptions, SendTimeoutError, ToAddress, Unavailable,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FAILED, OpenError, REPLY_TO, REQUEST, ReplyError, place};

/// Receives requests of type `Q` and answers with replies of type `R`. Belongs to one thread at a
/// time: clone it for others. Any number of servers, in any processes, share the requests.
pub struct Server<Q, R> {
    receiver: Receiver<Q>,
    requests: Queue<Q>,
    clients: Arc<Clients>,
    reply: PhantomData<fn(R)>,
}

/// A request, until it is answered. Dropped unanswered, it returns to the queue, and another server
/// gets it.
#[must_use = "dropped without a reply, the request is served again"]
pub struct Request<Q, R> {
    delivery: OwnedDelivery<Q>,
    clients: Arc<Clients>,
    reply: PhantomData<fn(R)>,
}

/// The queues for replies that this process has open.
struct Clients {
    address: Address,
    requests: ByteQueue,
    encoding: Encoding,
    open: Mutex<HashMap<String, ByteQueue>>,
}

/// The number of queues for replies that are kept open.
const MOST_OPEN: usize = 64;
/// How long a server waits for room in a client's queue. The client's thread takes replies at once,
/// unless its process is stopped.
const PATIENCE: Duration = Duration::from_secs(5);

impl<Q: Serialize + DeserializeOwned, R: Serialize> Server<Q, R> {
    /// Opens the queue of requests at `address`, or creates it with default settings.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(address: impl ToAddress) -> Result<Self, OpenError> {
        Self::open_with(address, &QueueOptions::new())
    }

    /// Like [`open`](Self::open), with options for the queue of requests.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_with(address: impl ToAddress, options: &QueueOptions) -> Result<Self, OpenError> {
        let address = address.to_address()?;
        let requests: Queue<Q> = options.open(&address)?;
        place::remove_orphans(&address, &**requests.transport());
        let clients = Clients {
            address,
            requests: ByteQueue::over(Arc::clone(requests.transport())),
            encoding: requests.encoding(),
            open: Mutex::default(),
        };
        Ok(Self {
            receiver: requests.receiver(),
            requests,
            clients: Arc::new(clients),
            reply: PhantomData,
        })
    }

    /// Blocks until there is a request, and returns it.
    ///
    /// # Errors
    /// Those of [`Receiver::recv`]. A request that is not a `Q` returns to the queue, and is an
    /// error of one message: see [`RecvError::is_of_one_message`].
    pub fn recv(&self) -> Result<Request<Q, R>, RecvError> {
        Ok(self.request(self.receiver.recv()?.into_owned()))
    }

    /// Blocks until there is a request, for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::TimedOut`] if there was none; otherwise those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Request<Q, R>, RecvTimeoutError> {
        Ok(self.request(self.receiver.recv_timeout(timeout)?.into_owned()))
    }

    /// Serves requests with `handler` until the queue is closed and drained, a `Shutdown` comes, or
    /// receiving fails for good. An error of the handler is the client's
    /// [`RequestError::Failed`](super::RequestError::Failed).
    ///
    /// # Errors
    /// [`RecvError`], except that a closed and drained queue is `Ok`. A reply that cannot be sent
    /// is logged through `tracing`, and its request is served again.
    pub fn serve<E: fmt::Display>(
        &self,
        mut handler: impl FnMut(&Q) -> Result<R, E>,
    ) -> Result<(), RecvError> {
        loop {
            let request = match self.recv() {
                Ok(request) => request,
                Err(error) if error.is_closed() => return Ok(()),
                Err(error) if error.is_of_one_message() => {
                    tracing::warn!(target: "ipc_node", %error, "request skipped");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let replied = match handler(request.data()) {
                Ok(reply) => request.reply(&reply),
                Err(error) => request.fail(&error.to_string()),
            };
            if let Err(error) = replied {
                tracing::warn!(target: "ipc_node", %error, "reply not sent");
            }
        }
    }

    /// Returns the queue of requests, for its statistics, for closing it, and so on.
    #[must_use]
    pub fn queue(&self) -> &Queue<Q> {
        &self.requests
    }

    fn request(&self, delivery: OwnedDelivery<Q>) -> Request<Q, R> {
        Request {
            delivery,
            clients: Arc::clone(&self.clients),
            reply: PhantomData,
        }
    }
}

impl<Q, R> Clone for Server<Q, R> {
    fn clone(&self) -> Self {
        Self {
            receiver: self.receiver.clone(),
            requests: self.requests.clone(),
            clients: Arc::clone(&self.clients),
            reply: PhantomData,
        }
    }
}

impl<Q, R> fmt::Debug for Server<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.requests).finish()
    }
}

impl<Q, R: Serialize> Request<Q, R> {
    /// The request.
    #[must_use]
    pub fn data(&self) -> &Q {
        self.delivery.data()
    }

    /// The number of this attempt, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u8 {
        self.delivery.attempt()
    }

    /// The headers of the request.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.delivery.headers()
    }

    /// Sends the reply, then acknowledges the request. If the client is gone, the reply is dropped
    /// and the request is acknowledged.
    ///
    /// # Errors
    /// [`ReplyError`]. If the reply was not sent, the request returns to the queue.
    pub fn reply(self, reply: &R) -> Result<(), ReplyError> {
        let mut payload = Vec::new();
        let appended = self.clients.encoding.append(reply, &mut payload);
        appended.map_err(ReplyError::Encode)?;
        self.answer(&payload, SendOptions::new())
    }

    /// Tells the client why there is no reply, then acknowledges the request.
    ///
    /// # Errors
    /// Those of [`reply`](Self::reply).
    pub fn fail(self, reason: &str) -> Result<(), ReplyError> {
        const MOST_BYTES: usize = 1000;
        let reason = ipc_proto::shortened(reason, MOST_BYTES);
        self.answer(&[], SendOptions::new().header(FAILED, reason)?)
    }

    fn answer(self, payload: &[u8], options: SendOptions) -> Result<(), ReplyError> {
        let headers = self.delivery.headers();
        if let (Some(reply_to), Some(number)) = (headers.get_str(REPLY_TO), headers.get(REQUEST)) {
            let options = options.header(REQUEST, number)?.timeout(PATIENCE);
            self.clients.send(reply_to, payload, &options)?;
        }
        Ok(self.delivery.ack()?)
    }
}

impl<Q: fmt::Debug, R> fmt::Debug for Request<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.delivery).finish()
    }
}

impl Clients {
    fn send(
        &self,
        reply_to: &str,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<(), ReplyError> {
        let Some(queue) = self.queue(reply_to)? else {
            return Ok(());
        };
        match queue.sender().send_with(payload, options) {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) || self.was_orphan(&queue, &error) => {
                self.lock().remove(reply_to);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns `true` if a full queue belongs to a client that was killed. The queue is then
    /// removed.
    fn was_orphan(&self, queue: &ByteQueue, error: &SendTimeoutError) -> bool {
        if !error.is_timeout() {
            return false;
        }
        place::remove_orphans(&self.address, &**self.requests.transport());
        queue.is_closed().is_err()
    }

    /// Returns the queue for the replies to a client; `None` if the client is gone.
    fn queue(&self, reply_to: &str) -> Result<Option<ByteQueue>, ReplyError> {
        if let Some(queue) = self.lock().get(reply_to) {
            return Ok(Some(queue.clone()));
        }
        let opened = place::open(reply_to, &self.address, &**self.requests.transport())?;
        if let Some(queue) = &opened {
            let mut open = self.lock();
            if open.len() >= MOST_OPEN {
                open.clear();
            }
            open.insert(reply_to.to_owned(), queue.clone());
        }
        Ok(opened)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, ByteQueue>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns `true` if the client's queue is closed or gone, so that no caller waits for the reply.
fn is_gone(error: &SendTimeoutError) -> bool {
    matches!(
        error.failure(),
        Some(
            SendFailure::Closed
                | SendFailure::Unavailable(Unavailable::Removed | Unavailable::Deleted)
        )
    )
}
