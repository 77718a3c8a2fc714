//! The ways in which a delivery ends, the same for every form of delivery.

/// Gives a delivery its `ack`, `nack`, `snooze` and `bury`. The type has
/// `fn settle(self, Settle) -> Result<(), SettleError>`.
macro_rules! settling {
    ([$($generics:tt)*] $delivery:ty) => {
        impl<$($generics)*> $delivery {
            /// Settles the message as done: it is never delivered again.
            ///
            /// # Errors
            /// [`SettleFailure::LeaseLost`](crate::SettleFailure::LeaseLost) if the lease expired:
            /// the message was, or will be, delivered to another receiver.
            #[inline]
            pub fn ack(self) -> Result<(), SettleError> {
                self.settle(Settle::Ack)
            }

            /// Returns the message to the queue because the attempt failed. It is delivered again,
            /// to any receiver, after the delay of the queue's [`Backoff`](ipc_proto::Backoff). If
            /// this was its last attempt, it becomes a dead letter.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn nack(self) -> Result<(), SettleError> {
                self.nack_with(Nack::new())
            }

            /// Like [`nack`](Self::nack), with a delay of the receiver's choice, rounded up to
            /// whole milliseconds. Zero: at once.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn nack_after(self, delay: Duration) -> Result<(), SettleError> {
                self.nack_with(Nack::new().after(delay))
            }

            /// Like [`nack`](Self::nack), with a reason, a delay, or both.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn nack_with(self, nack: Nack<'_>) -> Result<(), SettleError> {
                self.settle(nack.into())
            }

            /// Delays the message: it is delivered again after `delay`, rounded up to whole
            /// milliseconds, and this delivery does not count as an attempt.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack), and
            /// [`SettleFailure::Unsupported`](crate::SettleFailure::Unsupported) if the transport
            /// cannot snooze.
            pub fn snooze(self, delay: Duration) -> Result<(), SettleError> {
                self.settle(Settle::Snooze { delay })
            }

            /// Makes the message a dead letter: it is kept, and never delivered again.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn bury(self) -> Result<(), SettleError> {
                self.bury_with("")
            }

            /// Like [`bury`](Self::bury), with a reason that the dead letter keeps.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub fn bury_with(self, reason: &str) -> Result<(), SettleError> {
                self.settle(Settle::Bury { reason })
            }
        }
    };
}

/// Gives an owned delivery the same calls without blocking the thread. The type has a field `held`.
macro_rules! settling_async {
    ([$($generics:tt)*] $delivery:ty) => {
        impl<$($generics)*> $delivery {
            /// Like [`ack`](Self::ack), without blocking the thread while a server answers.
            ///
            /// Not cancel-safe: a future that is dropped before it is ready may or may not have
            /// settled the message. If it has not, the message is delivered again.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub async fn ack_async(self) -> Result<(), SettleError> {
                settle_async(self.held, OwnedSettle::Ack).await
            }

            /// Like [`nack_with`](Self::nack_with), without blocking the thread while a server
            /// answers.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub async fn nack_async(self, nack: Nack<'_>) -> Result<(), SettleError> {
                settle_async(self.held, Settle::from(nack).into()).await
            }

            /// Like [`snooze`](Self::snooze), without blocking the thread while a server answers.
            ///
            /// # Errors
            /// Those of [`snooze`](Self::snooze).
            pub async fn snooze_async(self, delay: Duration) -> Result<(), SettleError> {
                settle_async(self.held, Settle::Snooze { delay }.into()).await
            }

            /// Like [`bury_with`](Self::bury_with), without blocking the thread while a server
            /// answers.
            ///
            /// # Errors
            /// Those of [`ack`](Self::ack).
            pub async fn bury_async(self, reason: &str) -> Result<(), SettleError> {
                settle_async(self.held, Settle::Bury { reason }.into()).await
            }
        }
    };
}

pub(crate) use {settling, settling_async};
