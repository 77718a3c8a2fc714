//! The control calls, shared by the typed queue and the queue of bytes.

/// Gives a queue its control calls. The type has `fn transport(&self) -> &Arc<dyn Transport>`.
macro_rules! controls {
    ([$($generics:tt)*] $queue:ty) => {
        impl<$($generics)*> $queue {
            /// Returns the settings that the queue was created with.
            #[must_use]
            pub fn settings(&self) -> &QueueSettings {
                self.transport().settings()
            }

            /// Returns the counters since the queue was created, and its present contents.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn stats(&self) -> Result<QueueStats, ControlError> {
                self.transport().stats()
            }

            /// Returns the number of messages in the queue that are not dead letters: waiting,
            /// delayed, and held by receivers. It may change at any time.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn len(&self) -> Result<u64, ControlError> {
                self.stats().map(|stats| stats.unsettled())
            }

            /// Returns whether [`len`](Self::len) is zero.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn is_empty(&self) -> Result<bool, ControlError> {
                self.len().map(|messages| messages == 0)
            }

            /// Closes the queue. It takes no more messages, and those in it are still delivered.
            /// Wakes all blocked calls.
            ///
            /// # Errors
            /// [`ControlError`], as for every call below: the call did not happen, or its outcome
            /// is unknown.
            pub fn close(&self) -> Result<(), ControlError> {
                self.transport().close()
            }

            /// Opens a closed queue again.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn reopen(&self) -> Result<(), ControlError> {
                self.transport().reopen()
            }

            /// Returns whether the queue is closed.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn is_closed(&self) -> Result<bool, ControlError> {
                self.transport().is_closed()
            }

            /// Stops delivery until [`resume`](Self::resume). Delivered messages can be settled,
            /// and sending continues. The queue stays paused after all processes have detached.
            ///
            /// # Errors
            /// [`ControlError`]; its cause is `Unsupported` if the transport can't pause.
            pub fn pause(&self) -> Result<(), ControlError> {
                self.transport().pause()
            }

            /// Resumes delivery.
            ///
            /// # Errors
            /// Those of [`pause`](Self::pause).
            pub fn resume(&self) -> Result<(), ControlError> {
                self.transport().resume()
            }

            /// Returns whether the queue is paused.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn is_paused(&self) -> Result<bool, ControlError> {
                self.transport().is_paused()
            }

            /// Drops all messages that wait to be delivered, including delayed ones, and returns
            /// their number. Leased messages and dead letters stay.
            ///
            /// # Errors
            /// [`ControlError`]; its cause is `Unsupported` if the transport can't purge.
            pub fn purge(&self) -> Result<u64, ControlError> {
                self.transport().purge()
            }

            /// Closes the queue, then waits as `wait` says until every message in it is settled.
            /// Dead letters stay.
            ///
            /// # Errors
            /// [`DrainError::TimedOut`] says how many messages are left.
            pub fn drain(&self, wait: Wait) -> Result<(), DrainError> {
                self.transport().drain(wait)
            }

            /// Returns the current leases: which process holds which message.
            ///
            /// # Errors
            /// [`ControlError`]; its cause is `Unsupported` if the transport cannot list leases.
            pub fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
                self.transport().leases()
            }

            /// Makes a dead letter an ordinary message again, in place, so it works on a full queue
            /// too. `Ok(false)`: this dead letter no longer exists.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn requeue(&self, letter: DeadLetterId) -> Result<bool, ControlError> {
                self.transport().requeue(letter)
            }

            /// Drops a dead letter. `Ok(false)`: this dead letter no longer exists.
            ///
            /// # Errors
            /// [`ControlError`].
            pub fn discard(&self, letter: DeadLetterId) -> Result<bool, ControlError> {
                self.transport().discard(letter)
            }
        }
    };
}

pub(crate) use controls;
