//! `recv_async` and `send_async`, for any executor. The module [`notifier`](crate::notifier) wakes
//! their futures.
//!
//! A future tries, registers as a waiter, and tries once more before it returns "pending", so it
//! misses nothing that arrives in between. The poll that takes a message also returns it: a future
//! holds no message between polls, and dropping a future loses none. The handle is borrowed
//! mutably, because only one thread at a time may use it. So the future may move between threads.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use ipc_proto::MessageId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes::{ByteReceiver, ByteSender};
use crate::delivery::ByteDelivery;
use crate::error::{
    RecvError, RecvFailure, RecvPortError, SendError, SendFailure, SendPortError, Unavailable,
};
use crate::notifier::{Notifier, Waiter};
use crate::owned::{OwnedByteDelivery, OwnedDelivery};
use crate::received::{Delivery, Incoming};
use crate::receiver::{Receiver, without_signals};
use crate::send_options::SendOptions;
use crate::sender::{SendValue, Sender};
use crate::wait::Wait;

impl ByteReceiver {
    /// Returns the next message, without blocking the thread. Works with any executor.
    ///
    /// Cancel-safe: a future that is dropped before it is ready has taken nothing. A delivery that
    /// is dropped unsettled returns its message to the queue.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); [`Unavailable::Transport`] if the thread that wakes futures
    /// can't be started.
    pub async fn recv_async(&mut self) -> Result<OwnedByteDelivery, RecvError> {
        let received = self.receive_async(|delivery| Ok(delivery.into_owned()));
        received
            .await
            .map_err(|error| error.into_recv(self.queue()))
    }

    async fn receive_async<D>(
        &mut self,
        mut own: impl FnMut(ByteDelivery<'_>) -> Result<D, RecvFailure>,
    ) -> Result<D, RecvPortError> {
        let receiver = self;
        let mut waiting = Waiting::default();
        poll_fn(move |context| {
            let attempt = || match receiver.port_recv(|| Wait::No) {
                Err(RecvPortError::Empty | RecvPortError::Paused) => None,
                taken => Some(taken.and_then(|delivery| Ok(own(delivery)?))),
            };
            let more = || receiver.has_more();
            let polled = waiting.poll(context, || receiver.notifier(), attempt, more);
            polled.map(|received| received.unwrap_or_else(|e| Err(no_thread(&e).into())))
        })
        .await
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Returns the next message, without blocking the thread. Works with any executor.
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
    /// Cancel-safe: a future that is dropped before it is ready has taken nothing. A delivery that
    /// is dropped unsettled returns its message to the queue.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv); [`Unavailable::Transport`] if the thread that wakes futures
    /// can't be started.
    pub async fn recv_async(&mut self) -> Result<OwnedDelivery<T>, RecvError> {
        let encoding = self.encoding();
        loop {
            let receive = self.bytes_mut().receive_async(|bytes| {
                let delivery = without_signals(Incoming::of(bytes, encoding)?)?;
                Ok(delivery.map(Delivery::into_owned))
            });
            match receive.await {
                Ok(Some(delivery)) => return Ok(delivery),
                Ok(None) => {}
                Err(error) => return Err(error.into_recv(self.bytes_mut().queue())),
            }
        }
    }
}

impl ByteSender {
    /// Sends a copy when there is room, without blocking the thread. Works with any executor.
    ///
    /// Cancel-safe: a future that is dropped before it is ready has sent nothing. Each try that
    /// finds no room counts as refused in the queue's statistics.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); [`Unavailable::Transport`] if the thread that wakes futures
    /// can't be started.
    pub async fn send_async(&mut self, payload: &[u8]) -> Result<MessageId, SendError> {
        self.send_with_async(payload, &SendOptions::new()).await
    }

    /// Sends a copy with options when there is room, without blocking the thread. The options' time
    /// limit is ignored: drop the future to give up.
    ///
    /// # Errors
    /// Those of [`send_async`](Self::send_async) and [`send_with`](Self::send_with).
    pub async fn send_with_async(
        &mut self,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<MessageId, SendError> {
        let sent = self.port_send_async(payload, options).await;
        sent.map_err(|failure| failure.of(self.queue()))
    }

    async fn port_send_async(
        &mut self,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<MessageId, SendFailure> {
        let options = options.clone().wait(Wait::No);
        let sender = self;
        let mut waiting = Waiting::default();
        poll_fn(move |context| {
            let attempt = || match sender.port_send_with(payload, &options) {
                Err(error) if may_pass(&error) => None,
                sent => Some(sent.map_err(SendPortError::into_failure)),
            };
            let more = || sender.has_more();
            let polled = waiting.poll(context, || sender.notifier(), attempt, more);
            polled.map(|sent| sent.unwrap_or_else(|e| Err(no_thread(&e).into())))
        })
        .await
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a value when there is room, without blocking the thread. Works with any executor, and
    /// takes a `T` or a `&T`.
    ///
    /// Cancel-safe: a future that is dropped before it is ready has sent nothing, but `value` is
    /// dropped with it.
    ///
    /// # Errors
    /// Those of [`send`](Self::send); [`Unavailable::Transport`] if the thread that wakes futures
    /// can't be started.
    pub async fn send_async<V: SendValue<T>>(
        &mut self,
        value: V,
    ) -> Result<MessageId, SendError<V::Returned>> {
        self.send_with_async(value, &SendOptions::new()).await
    }

    /// Sends a value with options when there is room, without blocking the thread. The options'
    /// time limit is ignored: drop the future to give up.
    ///
    /// # Errors
    /// Those of [`send_async`](Self::send_async) and [`send_with`](Self::send_with).
    pub async fn send_with_async<V: SendValue<T>>(
        &mut self,
        value: V,
        options: &SendOptions,
    ) -> Result<MessageId, SendError<V::Returned>> {
        // Moved out, because a borrow cannot be kept across the wait.
        let mut payload = std::mem::take(&mut *self.bytes_mut().scratch());
        payload.clear();
        let sent = match self.append(value.value(), &mut payload) {
            Ok(()) => self.bytes_mut().port_send_async(&payload, options).await,
            Err(error) => Err(error.into()),
        };
        *self.bytes_mut().scratch() = payload;
        sent.map_err(|failure| {
            let error = failure.of(self.bytes_mut().queue());
            error.with(value.into_returned())
        })
    }
}

/// The part of a future that waits.
#[derive(Debug, Default)]
struct Waiting {
    waiter: Option<Waiter>,
}

impl Waiting {
    /// Tries, and waits until `attempt` returns something. `Err`: no waiter can be registered.
    fn poll<T>(
        &mut self,
        context: &Context<'_>,
        notifier: impl FnOnce() -> Notifier,
        mut attempt: impl FnMut() -> Option<T>,
        more: impl FnOnce() -> bool,
    ) -> Poll<io::Result<T>> {
        let mut found = attempt();
        if found.is_none() {
            let waiter = self.waiter.get_or_insert_with(|| notifier().waiter());
            if let Err(error) = waiter.register(context.waker()) {
                return Poll::Ready(Err(error));
            }
            found = attempt();
        }
        let Some(found) = found else {
            return Poll::Pending;
        };
        if let Some(waiter) = self.waiter.take() {
            waiter.found(more());
        }
        Poll::Ready(Ok(found))
    }
}

/// Returns whether waiting may help.
pub(crate) fn may_pass(error: &SendPortError) -> bool {
    matches!(
        error,
        SendPortError::NoRoom { .. } | SendPortError::Failed(SendFailure::KeysFull { .. })
    )
}

fn no_thread(error: &io::Error) -> Unavailable {
    Unavailable::transport(format!(
        "cannot start the thread that wakes futures: {error}"
    ))
}
