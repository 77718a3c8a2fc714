//! `recv_async`, `send_async`: for any executor. How they are woken is in [`bell`](crate::bell).
//!
//! A future tries, listens, and tries once more before it says "pending"; so nothing that comes in between is missed. What
//! a try took is handed out by the same poll: a future holds no message between polls, and dropping it loses none.
//! The handle is borrowed mutably, since it is one thread's at a time: so the future may wander between threads.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use ipc_proto::{Kind, MessageId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bell::{Bell, Listener};
use crate::bytes::{ByteReceiver, ByteSender};
use crate::delivery::ByteDelivery;
use crate::error::{RecvError, SendError, SendFailure};
use crate::owned::{OwnedByteDelivery, OwnedDelivery};
use crate::received::{Delivery, Incoming};
use crate::receiver::{Receiver, without_signals};
use crate::send_options::SendOptions;
use crate::sender::{SendValue, Sender};
use crate::transport::Wait;

impl ByteReceiver {
    /// The next message, without blocking the thread; under any executor.
    ///
    /// Cancel-safe: dropped before it is ready, the future has taken nothing; what it gave and nobody settles goes back.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); [`RecvError::Transport`] if the thread that wakes futures can't be started.
    pub async fn recv_async(&mut self) -> Result<OwnedByteDelivery, RecvError> {
        self.receive_async(|delivery| Ok(delivery.into_owned()))
            .await
    }

    async fn receive_async<D>(
        &mut self,
        mut own: impl FnMut(ByteDelivery<'_>) -> Result<D, RecvError>,
    ) -> Result<D, RecvError> {
        let receiver = self;
        let mut waiting = Waiting::default();
        poll_fn(move |context| {
            let attempt = || match receiver.try_recv() {
                Err(RecvError::Empty | RecvError::Paused) => None,
                taken => Some(taken.and_then(&mut own)),
            };
            let more = || receiver.has_more();
            let polled = waiting.poll(context, || receiver.bell(), attempt, more);
            polled.map(|received| {
                received.unwrap_or_else(|e| Err(RecvError::Transport(no_thread(&e))))
            })
        })
        .await
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// The next message, without blocking the thread; under any executor.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// let queue = ipc_queue::Queue::<u32>::open("local:answers")?;
    /// queue.sender().send_async(42).await?;
    ///
    /// let mut receiver = queue.receiver();
    /// let delivery = receiver.recv_async().await?;
    /// assert_eq!(*delivery.data(), 42);
    /// delivery.ack()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// Cancel-safe: dropped before it is ready, the future has taken nothing; what it gave and nobody settles goes back.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); [`RecvError::Transport`] if the thread that wakes futures can't be started.
    pub async fn recv_async(&mut self) -> Result<OwnedDelivery<T>, RecvError> {
        let encoding = self.encoding();
        loop {
            let receive = self.bytes_mut().receive_async(|bytes| {
                let delivery = without_signals(Incoming::of(bytes, encoding)?)?;
                Ok(delivery.map(Delivery::into_owned))
            });
            if let Some(delivery) = receive.await? {
                return Ok(delivery);
            }
        }
    }
}

impl ByteSender {
    /// Sends a copy when there is room, without blocking the thread; under any executor.
    ///
    /// Cancel-safe: dropped before it is ready, the future has sent nothing. Each look that found no room counts as refused in
    /// the queue's statistics.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendFailure::Transport`] if the thread that wakes futures can't be started.
    pub async fn send_async(&mut self, payload: &[u8]) -> Result<MessageId, SendFailure> {
        self.send_with_async(payload, &SendOptions::new().kind(Kind::Data))
            .await
    }

    /// Sends a copy with options when there is room.
    ///
    /// # Errors
    /// As [`send_async`](Self::send_async) and [`send_with`](Self::send_with).
    pub async fn send_with_async(
        &mut self,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<MessageId, SendFailure> {
        let sender = self;
        let mut waiting = Waiting::default();
        poll_fn(move |context| {
            let attempt = || match sender.send_with(payload, options, Wait::No) {
                Err(failure) if is_lack(&failure) => None,
                sent => Some(sent),
            };
            let more = || sender.has_more();
            let polled = waiting.poll(context, || sender.bell(), attempt, more);
            polled.map(|sent| sent.unwrap_or_else(|e| Err(SendFailure::Transport(no_thread(&e)))))
        })
        .await
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a value when there is room, without blocking the thread; under any executor. Takes a
    /// `T` or a `&T`.
    ///
    /// Cancel-safe: dropped before it is ready, the future has sent nothing; but `value` is dropped
    /// with it.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendFailure::Transport`] if the thread that wakes futures can't be
    /// started.
    pub async fn send_async<V: SendValue<T>>(
        &mut self,
        value: V,
    ) -> Result<MessageId, SendError<V::Returned>> {
        self.send_with_async(value, &SendOptions::new()).await
    }

    /// Sends a value with options when there is room, without blocking the thread. The options'
    /// waiting time does not count: drop the future to give up.
    ///
    /// # Errors
    /// As [`send_async`](Self::send_async) and [`send_with`](Self::send_with).
    pub async fn send_with_async<V: SendValue<T>>(
        &mut self,
        value: V,
        options: &SendOptions,
    ) -> Result<MessageId, SendError<V::Returned>> {
        // Taken out meanwhile: a borrow can't be kept across the wait.
        let mut payload = std::mem::take(&mut *self.bytes_mut().scratch());
        payload.clear();
        let sent = match self.append(value.value(), &mut payload) {
            Ok(()) => self.bytes_mut().send_with_async(&payload, options).await,
            Err(error) => Err(error.into()),
        };
        *self.bytes_mut().scratch() = payload;
        sent.map_err(|failure| self.failed(value.into_returned(), failure))
    }
}

/// A future's part that waits.
#[derive(Debug, Default)]
struct Waiting {
    listener: Option<Listener>,
}

impl Waiting {
    /// Tries, and listens until something comes of it. `Err`: it can't listen.
    fn poll<T>(
        &mut self,
        context: &Context<'_>,
        bell: impl FnOnce() -> Bell,
        mut attempt: impl FnMut() -> Option<T>,
        more: impl FnOnce() -> bool,
    ) -> Poll<io::Result<T>> {
        let mut found = attempt();
        if found.is_none() {
            let listener = self.listener.get_or_insert_with(|| bell().listener());
            if let Err(error) = listener.listen(context.waker()) {
                return Poll::Ready(Err(error));
            }
            found = attempt();
        }
        let Some(found) = found else {
            return Poll::Pending;
        };
        if let Some(listener) = self.listener.take() {
            listener.found(more());
        }
        Poll::Ready(Ok(found))
    }
}

/// Whether waiting may help.
pub(crate) fn is_lack(failure: &SendFailure) -> bool {
    use SendFailure::{Full, KeyInUse, KeysFull, NoMemory};
    matches!(
        failure,
        Full { .. } | NoMemory { .. } | KeyInUse | KeysFull { .. }
    )
}

fn no_thread(error: &io::Error) -> String {
    format!("can't start the thread that wakes futures: {error}")
}
