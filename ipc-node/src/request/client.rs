//! The client: sends requests and takes replies.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipc_proto::Encoding;
use ipc_queue::transport::{OpenMode, Wait};
use ipc_queue::{
    Address, ByteQueue, Queue, QueueOptions, RecvError, SendOptions, ToAddress, remove,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FAILED, OpenError, REPLY_TO, REQUEST, RequestError, place};

/// Sends requests of type `Q` and receives replies of type `R`. For any number of threads.
///
/// Has a thread that takes replies, and a queue for them, which is removed when the client is
/// dropped.
#[derive(Debug)]
pub struct Client<Q, R> {
    requests: Queue<Q>,
    /// The address of the queue for replies.
    reply_to: Address,
    replies: ByteQueue,
    encoding: Encoding,
    waiting: Arc<Waiting>,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
    reply: PhantomData<fn() -> R>,
}

/// A request whose reply was not taken yet. Dropping it ends the wait for the reply.
#[derive(Debug)]
#[must_use = "the reply is dropped with it"]
pub struct PendingReply<R> {
    number: u64,
    /// The address of the queue of requests, for errors.
    queue: String,
    encoding: Encoding,
    answered: flume::Receiver<Answer>,
    waiting: Arc<Waiting>,
    since: Instant,
    reply: PhantomData<fn() -> R>,
}

/// An encoded reply, or the reason why there is none.
type Answer = Result<Vec<u8>, String>;

/// The requests that were sent and not answered.
#[derive(Debug, Default)]
struct Waiting(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    open: HashMap<u64, flume::Sender<Answer>>,
    /// Set when no reply can come any more: the reason.
    over: Option<String>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Serialize + DeserializeOwned, R: DeserializeOwned> Client<Q, R> {
    /// Opens the queue of requests at `address`, or creates it with default settings, and creates a
    /// queue for replies beside it.
    ///
    /// # Errors
    /// [`OpenError::Unsupported`] for an address that is neither `shm:` nor `local:`.
    pub fn open(address: impl ToAddress) -> Result<Self, OpenError> {
        Self::open_with(address, &QueueOptions::new())
    }

    /// Like [`open`](Self::open), with options for the queue of requests. The queue for replies has
    /// the same limits.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(address: impl ToAddress, options: &QueueOptions) -> Result<Self, OpenError> {
        let address = address.to_address()?;
        let requests: Queue<Q> = options.open(&address)?;
        place::remove_orphans(&address, &**requests.transport());
        let reply_to = place::of_client(&address, &**requests.transport())?;
        let settings = requests.transport().settings().clone();
        let replies = QueueOptions::new()
            .settings(settings)
            .mode(OpenMode::Create)
            .open_bytes(&reply_to)?;
        let waiting = Arc::new(Waiting::default());
        let (taken, receiver) = (Arc::clone(&waiting), replies.receiver());
        let thread = thread::Builder::new()
            .name("ipc-replies".to_owned())
            .spawn(move || take_replies(&receiver, &taken));
        let thread = thread.map_err(|error| {
            let _ = remove(&reply_to);
            OpenError::Thread(error)
        })?;
        Ok(Self {
            encoding: requests.encoding(),
            requests,
            reply_to,
            replies,
            waiting,
            next: AtomicU64::new(0),
            thread: Some(thread),
            reply: PhantomData,
        })
    }

    /// Sends a request and waits for its reply, as long as it takes.
    ///
    /// # Errors
    /// [`RequestError::Failed`] with the server's reason; the others say why no reply can come.
    pub fn call(&self, request: &Q) -> Result<R, RequestError> {
        self.send(request)?.wait()
    }

    /// Sends a request and waits for its reply for at most `timeout`, sending included.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`]; otherwise those of [`call`](Self::call).
    pub fn call_timeout(&self, request: &Q, timeout: Duration) -> Result<R, RequestError> {
        let started = Instant::now();
        let options = SendOptions::new().timeout(timeout);
        let pending = self.send_with(request, options)?;
        pending.wait_timeout(timeout.saturating_sub(started.elapsed()))
    }

    /// Sends a request, waiting while the queue is full, and returns its pending reply.
    ///
    /// # Errors
    /// [`RequestError::NotSent`], or [`RequestError::Over`] if no reply could come.
    pub fn send(&self, request: &Q) -> Result<PendingReply<R>, RequestError> {
        self.send_with(request, SendOptions::new().wait(Wait::Forever))
    }

    /// Like [`send`](Self::send), with a priority, a time to live, a waiting time and so on.
    /// Headers that begin with `ipc-` are replaced.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_with(
        &self,
        request: &Q,
        options: SendOptions,
    ) -> Result<PendingReply<R>, RequestError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let options = options
            .header(REPLY_TO, self.reply_to.to_string())?
            .header(REQUEST, number.to_le_bytes())?;
        let (answer, answered) = flume::bounded(1);
        let queue = self.requests.transport().address();
        {
            let mut requests = self.waiting.lock();
            if let Some(reason) = &requests.over {
                let reason = reason.clone();
                return Err(RequestError::Over { queue, reason });
            }
            requests.open.insert(number, answer);
        }
        let pending = PendingReply {
            number,
            queue,
            encoding: self.encoding,
            answered,
            waiting: Arc::clone(&self.waiting),
            since: Instant::now(),
            reply: PhantomData,
        };
        self.requests.sender().send_with(request, &options)?;
        Ok(pending)
    }

    /// Returns the queue of requests, for its statistics, for closing it, and so on.
    #[must_use]
    pub fn queue(&self) -> &Queue<Q> {
        &self.requests
    }
}

impl<Q, R> Drop for Client<Q, R> {
    fn drop(&mut self) {
        // Wakes the thread, even if the queue was removed or can't be closed any more.
        let _ = self.replies.close();
        let _ = remove(&self.reply_to);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hands out replies until the queue is closed or gone.
fn take_replies(receiver: &ipc_queue::ByteReceiver, waiting: &Waiting) {
    let end = loop {
        match receiver.recv() {
            Ok(delivery) => {
                let headers = delivery.headers();
                let number = headers.get(REQUEST).and_then(|bytes| bytes.try_into().ok());
                let answer = match headers.get_str(FAILED) {
                    Some(reason) => Err(reason.to_owned()),
                    None => Ok(delivery.payload().to_vec()),
                };
                // A lost lease or a truncated file shows at the next receive.
                let whole = delivery.check_whole().is_ok();
                let _ = delivery.ack();
                if let (Some(number), true) = (number.map(u64::from_le_bytes), whole) {
                    // A second reply, or one for which no thread waits, has no entry.
                    let answered = waiting.lock().open.remove(&number);
                    answered.map(|sender| sender.send(answer));
                }
            }
            Err(error) if error.is_of_one_message() => {}
            Err(error) => break error,
        }
    };
    let mut requests = waiting.lock();
    requests.over = Some(reason_of(&end));
    // Dropping a sender ends the wait of its request.
    requests.open.clear();
}

fn reason_of(end: &RecvError) -> String {
    match end.is_closed() {
        true => "the client was dropped".to_owned(),
        false => end.to_string(),
    }
}

impl<R: DeserializeOwned> PendingReply<R> {
    /// Waits for the reply, as long as it takes.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn wait(self) -> Result<R, RequestError> {
        let answer = self.answered.recv();
        self.read(answer.map_err(|_| self.over()))
    }

    /// Waits for the reply for at most `timeout`.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`]; otherwise those of [`Client::call`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<R, RequestError> {
        let answer = self.answered.recv_timeout(timeout);
        self.read(answer.map_err(|error| match error {
            flume::RecvTimeoutError::Timeout => RequestError::TimedOut {
                queue: self.queue.clone(),
                waited: self.since.elapsed(),
            },
            flume::RecvTimeoutError::Disconnected => self.over(),
        }))
    }

    /// Waits for the reply without blocking the thread, under any executor.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub async fn wait_async(self) -> Result<R, RequestError> {
        let answer = self.answered.recv_async().await;
        self.read(answer.map_err(|_| self.over()))
    }

    /// Returns `true` if the reply has come, or cannot come any more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.answered.is_empty() || self.answered.is_disconnected()
    }

    fn read(&self, answer: Result<Answer, RequestError>) -> Result<R, RequestError> {
        match answer? {
            Ok(bytes) => self.encoding.decode(&bytes).map_err(RequestError::Decode),
            Err(reason) => Err(RequestError::Failed { reason }),
        }
    }

    fn over(&self) -> RequestError {
        let reason = self.waiting.lock().over.clone();
        RequestError::Over {
            queue: self.queue.clone(),
            reason: reason.unwrap_or_default(),
        }
    }
}

impl<R> Drop for PendingReply<R> {
    fn drop(&mut self) {
        self.waiting.lock().open.remove(&self.number);
    }
}
