//! Iterators over received messages.
//!
//! They end when the queue is closed and drained, and at a `Shutdown`. A message that can't be read
//! is skipped: it has returned to the queue. Any other error also ends the iterator, is logged
//! through `tracing`, and is returned by `error`.

use serde::de::DeserializeOwned;

use crate::bytes::ByteReceiver;
use crate::delivery::ByteDelivery;
use crate::error::{RecvError, RecvFailure, TryRecvError};
use crate::owned::{OwnedByteDelivery, OwnedDelivery};
use crate::received::Delivery;
use crate::receiver::Receiver;

/// A blocking iterator over the messages of a receiver: [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, R> {
    receiver: &'a R,
    end: End,
}

/// An iterator over the messages that are available now: [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, R> {
    receiver: &'a R,
    end: End,
}

/// A blocking iterator that owns its receiver: `for job in receiver`.
#[derive(Debug)]
pub struct IntoIter<R> {
    receiver: R,
    end: End,
}

/// The reason why an iterator ended.
#[derive(Debug, Default)]
struct End(Option<TryRecvError>);

impl End {
    /// Receives until there is a message or a reason to stop.
    fn next<D, E: Into<TryRecvError>>(
        &mut self,
        mut receive: impl FnMut() -> Result<D, E>,
    ) -> Option<D> {
        while self.0.is_none() {
            match receive().map_err(Into::into) {
                Ok(delivery) => return Some(delivery),
                Err(error) if error.failure().is_some_and(RecvFailure::is_of_one_message) => {
                    tracing::warn!(target: "ipc_queue", %error, "message skipped");
                }
                Err(error) => self.0 = Some(error),
            }
        }
        if let Some(error) = self.error() {
            tracing::error!(target: "ipc_queue", %error, "receiving ended");
        }
        None
    }

    fn error(&self) -> Option<&RecvError> {
        use RecvFailure::{Closed, Shutdown};
        let error = match self.0.as_ref()? {
            TryRecvError::Failed(error) => error,
            _ => return None,
        };
        (!matches!(error.failure, Closed | Shutdown)).then_some(error)
    }
}

/// Gives an iterator the accessor of its error.
macro_rules! ended {
    ([$($generics:tt)*] $iterator:ty) => {
        impl<$($generics)*> $iterator {
            /// Returns the error that ended the iterator. `None` while it continues, and after an
            /// end without an error: the queue was closed and drained, had nothing more for
            /// [`try_iter`](Receiver::try_iter), or a `Shutdown` was received.
            #[must_use]
            pub fn error(&self) -> Option<&RecvError> {
                self.end.error()
            }
        }
    };
}

ended!(['a, R] Iter<'a, R>);
ended!(['a, R] TryIter<'a, R>);
ended!([R] IntoIter<R>);

impl<'a, T: DeserializeOwned> Iterator for Iter<'a, Receiver<T>> {
    type Item = Delivery<'a, T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.end.next(|| self.receiver.recv())
    }
}

impl<'a, T: DeserializeOwned> Iterator for TryIter<'a, Receiver<T>> {
    type Item = Delivery<'a, T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.end.next(|| self.receiver.try_recv())
    }
}

impl<T: DeserializeOwned> Iterator for IntoIter<Receiver<T>> {
    type Item = OwnedDelivery<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.end
            .next(|| self.receiver.recv().map(Delivery::into_owned))
    }
}

impl<'a> Iterator for Iter<'a, ByteReceiver> {
    type Item = ByteDelivery<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.end.next(|| self.receiver.recv())
    }
}

impl<'a> Iterator for TryIter<'a, ByteReceiver> {
    type Item = ByteDelivery<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.end.next(|| self.receiver.try_recv())
    }
}

impl Iterator for IntoIter<ByteReceiver> {
    type Item = OwnedByteDelivery;

    fn next(&mut self) -> Option<Self::Item> {
        let receive = || self.receiver.recv();
        self.end.next(|| receive().map(ByteDelivery::into_owned))
    }
}

/// Gives a receiver its iterators.
macro_rules! iterable {
    ([$($generics:tt)*] $receiver:ty, $delivery:ty, $owned:ty) => {
        impl<$($generics)*> $receiver {
            /// Returns a blocking iterator over the messages, which ends when the queue is closed
            /// and drained, at a `Shutdown`, or at an [error](Iter::error).
            pub fn iter(&self) -> Iter<'_, Self> {
                Iter { receiver: self, end: End::default() }
            }

            /// Returns an iterator over the messages that are available now; it never blocks.
            pub fn try_iter(&self) -> TryIter<'_, Self> {
                TryIter { receiver: self, end: End::default() }
            }
        }

        impl<'a, $($generics)*> IntoIterator for &'a $receiver {
            type Item = $delivery;
            type IntoIter = Iter<'a, $receiver>;

            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }

        impl<$($generics)*> IntoIterator for $receiver {
            type Item = $owned;
            type IntoIter = IntoIter<Self>;

            fn into_iter(self) -> Self::IntoIter {
                IntoIter { receiver: self, end: End::default() }
            }
        }
    };
}

iterable!([T: DeserializeOwned] Receiver<T>, Delivery<'a, T>, OwnedDelivery<T>);
iterable!([] ByteReceiver, ByteDelivery<'a>, OwnedByteDelivery);
