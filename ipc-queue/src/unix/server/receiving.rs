//! A connection that is a receiver. The stack of its thread holds the client's deliveries.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Connection, Event};
use crate::bytes::{ByteQueue, ByteReceiver};
use crate::control::ControlError;
use crate::delivery::{ByteDelivery, ack_each};
use crate::error::{RecvFailure, RecvPortError, SettleFailure, Unavailable};
use crate::notifier::Waiter;
use crate::readiness::WakeFd;
use crate::unix::failures::SettleFailed;
use crate::unix::frame::{Carried, MAX_INLINE_BYTES};
use crate::unix::wire::{Answer, Ask, Delivered, Patience};
use crate::unix::wire_error::WireError;
use crate::wait::Wait;

/// Serves the connection until it ends. Then the client's messages return to the queue.
pub(super) fn serve(connection: &mut Connection<'_>, id: u32) -> Result<(), WireError> {
    let queue = ByteQueue::over(Arc::clone(&connection.shared.queue));
    let port = queue.receiver();
    let wake_fd = WakeFd::new().map_err(WireError::io)?;
    connection.answer(id, &Answer::Done, &Carried::None)?;
    let mut receiving = Receiving {
        connection,
        port: &port,
        wake_fd,
        held: HashMap::new(),
        last_ticket: 0,
        waiting: None,
    };
    receiving.run()
}

struct Receiving<'p, 'c, 's> {
    connection: &'c mut Connection<'s>,
    port: &'p ByteReceiver,
    wake_fd: Arc<WakeFd>,
    held: HashMap<u64, ByteDelivery<'p>>,
    last_ticket: u64,
    waiting: Option<Waiting>,
}

/// A receive that has not found a message yet.
struct Waiting {
    id: u32,
    most: u32,
    since: Instant,
    /// `None`: without a limit.
    until: Option<Instant>,
    waiter: Waiter,
}

impl<'p> Receiving<'p, '_, '_> {
    fn run(&mut self) -> Result<(), WireError> {
        loop {
            let Some(waiting) = &self.waiting else {
                let request = self.connection.next()?;
                self.act(request.id, request.what)?;
                continue;
            };
            match self.connection.next_event(&self.wake_fd, waiting.until)? {
                Event::Request(request) => self.act(request.id, request.what)?,
                Event::Woken => self.look_again()?,
                Event::TimeUp => self.give_up()?,
            }
        }
    }

    fn act(&mut self, id: u32, ask: Ask) -> Result<(), WireError> {
        let settled = match ask {
            Ask::Receive { most, patience } => return self.receive(id, most, patience),
            Ask::AckBatch { tickets } => {
                let answer = Answer::AckedBatch(self.ack_batch(&tickets));
                return self.connection.answer(id, &answer, &Carried::None);
            }
            Ask::Settle { ticket, how } => match self.held.remove(&ticket) {
                Some(delivery) => {
                    let message = delivery.id();
                    let settled = delivery.settle(how.as_settle());
                    self.let_go(&[message]);
                    settled.map_err(|error| error.failure)
                }
                None => Err(SettleFailure::LeaseLost),
            },
            Ask::Extend { ticket, by } => match self.held.get(&ticket) {
                Some(delivery) => delivery.extend(by).map_err(|error| error.failure),
                None => Err(SettleFailure::LeaseLost),
            },
            _ => return Err(WireError::Unasked("this connection is a receiver")),
        };
        let answer = Answer::Settled(settled.map_err(Into::into));
        self.connection.answer(id, &answer, &Carried::None)
    }

    /// Acknowledges those of these deliveries that are held. Returns the failures, each with its
    /// index.
    fn ack_batch(&mut self, tickets: &[u64]) -> Vec<(u32, SettleFailed)> {
        let mut failures = Vec::new();
        let (mut deliveries, mut indexes) = (Vec::new(), Vec::new());
        for (ticket, index) in tickets.iter().zip(0..) {
            match self.held.remove(ticket) {
                Some(delivery) => {
                    deliveries.push(delivery);
                    indexes.push(index);
                }
                None => failures.push((index, SettleFailure::LeaseLost.into())),
            }
        }
        let messages: Vec<_> = deliveries.iter().map(ByteDelivery::id).collect();
        let (_, not_acked) = ack_each(deliveries.into_iter());
        self.let_go(&messages);
        let not_acked = not_acked.into_iter();
        failures.extend(not_acked.map(|(at, error)| (indexes[at], error.failure.into())));
        failures
    }

    fn receive(&mut self, id: u32, most: u32, patience: Patience) -> Result<(), WireError> {
        if self.waiting.is_some() {
            return Err(WireError::Unasked("this receiver is already waiting"));
        }
        let since = Instant::now();
        match self.try_receive() {
            Err(RecvPortError::Empty | RecvPortError::Paused) if patience != Patience::None => {}
            tried => return self.answer_tried(id, most, tried),
        }
        let until = match Wait::from(patience) {
            Wait::Until(deadline) => Some(deadline),
            Wait::No | Wait::Forever => None,
        };
        self.waiting = Some(Waiting {
            id,
            most,
            since,
            until,
            waiter: self.port.notifier().waiter(),
        });
        self.look_again()
    }

    /// Registers as a waiter, and tries once more, so that nothing that arrives in between is
    /// missed.
    fn look_again(&mut self) -> Result<(), WireError> {
        let Some(waiting) = &mut self.waiting else {
            return Ok(());
        };
        // The next try covers the wake that is cleared here.
        // If the descriptor is lost, polling it reports that.
        let _ = self.wake_fd.clear();
        let listening = waiting.waiter.register(&self.wake_fd.waker());
        listening.map_err(WireError::io)?;
        match self.try_receive() {
            Err(RecvPortError::Empty | RecvPortError::Paused) => Ok(()),
            tried => self.stop_waiting(tried),
        }
    }

    /// Ends the wait. A message that is there now is still taken.
    fn give_up(&mut self) -> Result<(), WireError> {
        let tried = self.try_receive();
        let waited = self.waiting.as_ref().map(|waiting| waiting.since.elapsed());
        let waited = waited.unwrap_or_default();
        self.stop_waiting(match tried {
            Err(RecvPortError::Empty | RecvPortError::Paused) => {
                Err(RecvPortError::TimedOut { waited })
            }
            tried => tried,
        })
    }

    fn stop_waiting(
        &mut self,
        tried: Result<ByteDelivery<'p>, RecvPortError>,
    ) -> Result<(), WireError> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(());
        };
        match tried {
            Err(RecvPortError::TimedOut { .. }) => drop(waiting.waiter),
            _ => waiting.waiter.found(self.port.has_more()),
        }
        self.answer_tried(waiting.id, waiting.most, tried)
    }

    fn try_receive(&self) -> Result<ByteDelivery<'p>, RecvPortError> {
        // Tries twice: another connection may return a message after the first try and before the
        // query of the leases. The second try finds it.
        for _ in 0..2 {
            let received = self.port.port_recv(|| Wait::No);
            if received.as_ref().err() != Some(&RecvFailure::Closed.into()) {
                return received;
            }
            if self.others_hold()? {
                return Err(RecvPortError::Empty);
            }
        }
        Err(RecvFailure::Closed.into())
    }

    /// Returns whether other handles hold messages or loans that may still return. The queue may
    /// regard all clients as one process, the server, which need not wait for itself. But one of
    /// the clients may die.
    fn others_hold(&self) -> Result<bool, RecvPortError> {
        let shared = self.connection.shared;
        // Registered first, so that a return after the query wakes this connection.
        let connection = self.connection.holder.connection;
        let waker = self.wake_fd.waker();
        shared.holders.await_returns(connection, waker);
        let ours: HashSet<_> = self
            .held
            .values()
            .map(|held| (held.id(), held.attempt()))
            .collect();
        let not_answered = |error: ControlError| Unavailable::transport(error.to_string());
        let leases = match shared.queue.leases() {
            Ok(leases) => leases,
            // A queue that cannot list leases distinguishes its receivers itself.
            Err(error) if error.is_unsupported() => Vec::new(),
            Err(error) => return Err(not_answered(error).into()),
        };
        let mut held = leases.iter().map(|lease| (lease.message, lease.attempt));
        if held.any(|held| !ours.contains(&held)) {
            return Ok(true);
        }
        Ok(shared.queue.stats().map_err(not_answered)?.writing > 0)
    }

    fn answer_tried(
        &mut self,
        id: u32,
        most: u32,
        tried: Result<ByteDelivery<'p>, RecvPortError>,
    ) -> Result<(), WireError> {
        match tried {
            Ok(first) => self.hand_over(id, most, first),
            Err(error) => {
                let answer = Answer::Nothing(error.into());
                self.connection.answer(id, &answer, &Carried::None)
            }
        }
    }

    /// Hands over the first message and, if more are wanted, those that are ready: as many as fit
    /// into each frame.
    fn hand_over(&mut self, id: u32, most: u32, first: ByteDelivery<'p>) -> Result<(), WireError> {
        const MOST_IN_FRAME: usize = 256;
        let mut next = Some(first);
        let mut left = most.saturating_sub(1);
        while let Some(first) = next.take() {
            let mut bytes = first.payload().len();
            let mut batch = vec![first];
            while next.is_none() && left > 0 {
                let Ok(delivery) = self.port.port_recv(|| Wait::No) else {
                    left = 0;
                    break;
                };
                left -= 1;
                bytes += delivery.payload().len();
                if bytes > MAX_INLINE_BYTES || batch.len() == MOST_IN_FRAME {
                    next = Some(delivery);
                } else {
                    batch.push(delivery);
                }
            }
            self.hand_over_batch(id, batch, next.is_some())?;
        }
        Ok(())
    }

    fn hand_over_batch(
        &mut self,
        id: u32,
        batch: Vec<ByteDelivery<'p>>,
        more: bool,
    ) -> Result<(), WireError> {
        let mut list = Vec::with_capacity(batch.len());
        let mut tickets = Vec::with_capacity(batch.len());
        for delivery in batch {
            self.last_ticket += 1;
            let metadata = delivery.metadata();
            list.push(Delivered {
                ticket: self.last_ticket,
                metadata,
                headers: delivery.headers(),
                bytes: delivery.payload().len() as u32,
            });
            let (shared, holder) = (self.connection.shared, &self.connection.holder);
            shared.holders.took(metadata.id, holder);
            self.held.insert(self.last_ticket, delivery);
            tickets.push(self.last_ticket);
        }
        let payloads: Vec<&[u8]> = tickets
            .iter()
            .map(|ticket| self.held[ticket].payload())
            .collect();
        let single;
        let carried = match payloads[..] {
            [payload] => {
                single = [payload];
                Carried::of(&single).map_err(WireError::io)?
            }
            _ => Carried::Inline(&payloads),
        };
        let answer = Answer::Deliveries { list, more };
        self.connection.answer(id, &answer, &carried)
    }

    fn let_go(&self, messages: &[ipc_proto::MessageId]) {
        let connection = self.connection.holder.connection;
        self.connection.shared.holders.let_go(messages, connection);
    }
}

impl Drop for Receiving<'_, '_, '_> {
    fn drop(&mut self) {
        // Unregisters first, so that other waiters do not wait for the returns below.
        self.waiting = None;
        for (_, delivery) in std::mem::take(&mut self.held) {
            let message = delivery.id();
            drop(delivery);
            self.let_go(&[message]);
        }
        let connection = self.connection.holder.connection;
        self.connection.shared.holders.leave(connection);
    }
}
