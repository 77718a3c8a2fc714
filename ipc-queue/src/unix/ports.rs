//! The client's handles. Each has its own connection, which it opens at its first use, and again if
//! it has ended.
//!
//! The deliveries and loans of a handle end with its connection: the server returns the messages
//! and frees the places. A handle that reconnects starts without any. Settling an earlier delivery
//! then reports that its lease is lost.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use ipc_proto::{Kind, MessageId};

use super::client::{CallError, Client};
use super::frame::{Carried, MAX_INLINE_BYTES, Payload, Received};
use super::link::{Link, Lost};
use super::wait_queue;
use super::wire::{Answer, Ask, Delivered, Side};
use super::wire_error::WireError;
use crate::contract::{ReceivePort, SendPort};
use crate::error::{
    BatchPortError, RecvPortError, SendFailure, SendPortError, SettleFailure, Unavailable,
};
use crate::notifier::Notifier;
use crate::port::{PortDelivery, PortLoan, PublishOnce};
use crate::send_options::SendOptions;
use crate::settle::Settle;
use crate::settle_once::{AckTogether, AcksInFlight, SettleOnce};
use crate::wait::Wait;

/// The part that senders and receivers share.
#[derive(Debug)]
struct Port {
    client: Arc<Client>,
    role: fn() -> Ask,
    link: RefCell<Option<Arc<Link>>>,
}

/// Sends.
#[derive(Debug)]
pub(super) struct UnixSender(Port);

/// Receives.
#[derive(Debug)]
pub(super) struct UnixReceiver(Port);

/// The right to fill one place, over the connection that lent it.
#[derive(Debug)]
struct UnixPlace {
    client: Arc<Client>,
    link: Arc<Link>,
    loan: u64,
}

/// The right to settle one delivery, over the connection that brought it.
struct UnixHeld {
    client: Arc<Client>,
    link: Arc<Link>,
    ticket: u64,
}

/// Acks that were sent over this connection: their number in each frame, and the frame's request.
struct UnixAcks {
    link: Arc<Link>,
    frames: Vec<(usize, Result<u32, Lost>)>,
}

/// The maximum number of messages in one frame.
const MOST_IN_FRAME: usize = 1024;

impl Port {
    fn new(client: &Arc<Client>, role: fn() -> Ask) -> Self {
        Self {
            client: Arc::clone(client),
            role,
            link: RefCell::default(),
        }
    }

    /// Returns the connection, and connects again if it has ended.
    fn link(&self) -> Result<Arc<Link>, CallError> {
        if let Some(link) = &*self.link.borrow() {
            if !link.is_ours() {
                return Err(CallError::Forked);
            }
            if link.is_up() {
                return Ok(Arc::clone(link));
            }
        }
        let link = Arc::new(self.client.connect()?);
        link.call(&(self.role)(), &Carried::None, Wait::No)?;
        *self.link.borrow_mut() = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Calls `ask` on the connection, or on a new one if the old one has ended. Also returns the
    /// connection used.
    fn with_link<R>(
        &self,
        mut ask: impl FnMut(&Arc<Link>) -> Result<R, Lost>,
    ) -> Result<R, CallError> {
        match ask(&self.link()?) {
            Err(Lost::Before(_)) => Ok(ask(&self.link()?)?),
            answered => Ok(answered?),
        }
    }

    fn call(
        &self,
        ask: &Ask,
        carried: &Carried<'_>,
        wait: Wait,
    ) -> Result<Received<Answer>, CallError> {
        self.with_link(|link| link.call(ask, carried, wait))
    }
}

impl UnixSender {
    pub(super) fn new(client: &Arc<Client>) -> Self {
        Self(Port::new(client, || Ask::BecomeSender))
    }

    fn send_with(
        &self,
        payload: &[u8],
        options: SendOptions,
        wait: Wait,
    ) -> Result<MessageId, SendPortError> {
        self.check_size(payload.len())?;
        let ask = Ask::Send {
            options,
            patience: wait.into(),
        };
        let payload = [payload];
        let carried = carried(&payload)?;
        match self
            .0
            .call(&ask, &carried, wait)
            .map_err(Unavailable::from)?
            .what
        {
            Answer::Sent(sent) => Ok(sent?),
            _ => Err(nonsense().into()),
        }
    }

    /// Checks the size before the payload is copied.
    fn check_size(&self, bytes: usize) -> Result<(), SendFailure> {
        let most = self.0.client.most_bytes();
        if bytes > most {
            return Err(SendFailure::TooLarge { bytes, most });
        }
        Ok(())
    }

    /// Returns the number of leading payloads that fit into one frame.
    fn fitting(payloads: &[&[u8]]) -> usize {
        let mut bytes = 0;
        let fits = |payload: &&&[u8]| {
            bytes += payload.len();
            bytes <= MAX_INLINE_BYTES
        };
        payloads.iter().take(MOST_IN_FRAME).take_while(fits).count()
    }

    /// Sends the payloads that fit into one frame, and returns the number that was sent.
    fn send_some(
        &self,
        payloads: &[&[u8]],
        kind: Kind,
        wait: Wait,
    ) -> Result<usize, BatchPortError> {
        let fitting = Self::fitting(payloads);
        if fitting < 2 {
            let options = SendOptions::new().kind(kind);
            let sent = self.send_with(payloads[0], options, wait);
            return match sent {
                Ok(_) => Ok(1),
                Err(error) => Err(BatchPortError { sent: 0, error }),
            };
        }
        let now = &payloads[..fitting];
        let ask = Ask::SendBatch {
            kind,
            patience: wait.into(),
            lengths: now.iter().map(|payload| payload.len() as u32).collect(),
        };
        let nothing = |error| BatchPortError { sent: 0, error };
        let answer = self.0.call(&ask, &Carried::Inline(now), wait);
        match answer
            .map_err(|error| nothing(Unavailable::from(error).into()))?
            .what
        {
            Answer::SentBatch { sent, failure } => match failure {
                None => Ok(fitting),
                Some(failure) => Err(BatchPortError {
                    sent: sent as usize,
                    error: failure.into(),
                }),
            },
            _ => Err(nothing(nonsense().into())),
        }
    }
}

fn nonsense() -> Unavailable {
    CallError::nonsense().into()
}

fn carried<'a>(payload: &'a [&'a [u8]; 1]) -> Result<Carried<'a>, SendFailure> {
    Carried::of(payload).map_err(|error| {
        Unavailable::transport(format!("no memory for a payload to hand over: {error}")).into()
    })
}

impl SendPort for UnixSender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        self.check_size(len)?;
        let ask = Ask::Lend {
            bytes: len as u64,
            options: options.clone(),
            patience: wait.into(),
        };
        let lent = self.0.with_link(|link| {
            let answer = link.call(&ask, &Carried::None, wait)?;
            Ok((Arc::clone(link), answer.what))
        });
        match lent.map_err(Unavailable::from)? {
            (link, Answer::Lent(lent)) => {
                let (loan, client) = (lent?, Arc::clone(&self.0.client));
                Ok(PortLoan::new(len, UnixPlace { client, link, loan }))
            }
            _ => Err(nonsense().into()),
        }
    }

    fn send(&self, payload: &[u8], kind: Kind, wait: Wait) -> Result<MessageId, SendPortError> {
        self.send_with(payload, SendOptions::new().kind(kind), wait)
    }

    fn send_batch(&self, payloads: &[&[u8]], kind: Kind, wait: Wait) -> Result<(), BatchPortError> {
        let mut sent = 0;
        while sent < payloads.len() {
            let now = self.send_some(&payloads[sent..], kind, wait);
            sent += now.map_err(|failed| BatchPortError {
                sent: sent + failed.sent,
                ..failed
            })?;
        }
        Ok(())
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.0.client, Side::Room)
    }
}

impl UnixReceiver {
    pub(super) fn new(client: &Arc<Client>) -> Self {
        Self(Port::new(client, || Ask::BecomeReceiver))
    }

    /// Receives at most `most` messages, from all frames of the answer.
    fn receive(
        &self,
        most: usize,
        wait: Wait,
        mut take: impl FnMut(PortDelivery),
    ) -> Result<(), RecvPortError> {
        let ask = Ask::Receive {
            most: u32::try_from(most).unwrap_or(u32::MAX),
            patience: wait.into(),
        };
        let mut end = Ok(());
        let received = self.0.with_link(|link| {
            link.call_for_all(&ask, wait, |answer| match answer.what {
                Answer::Deliveries { list, more } => {
                    let deliveries = self.deliveries(link, &list, answer.payload);
                    end = deliveries.map(|deliveries| deliveries.for_each(&mut take));
                    !more
                }
                Answer::Nothing(failed) => {
                    end = Err(failed.into());
                    true
                }
                _ => {
                    end = Err(nonsense().into());
                    true
                }
            })
        });
        received.map_err(Unavailable::from)?;
        end
    }

    fn deliveries(
        &self,
        link: &Arc<Link>,
        list: &[Delivered],
        payload: Payload,
    ) -> Result<impl Iterator<Item = PortDelivery>, RecvPortError> {
        let client = &self.0.client;
        let payload = payload.into_bytes(client.most_bytes().max(MAX_INLINE_BYTES));
        let bytes = payload.map_err(|error| Unavailable::transport(error.to_string()))?;
        let payloads =
            split(bytes, list).map_err(|error| Unavailable::from(CallError::from(error)))?;
        let list = list.to_vec();
        Ok(list
            .into_iter()
            .zip(payloads)
            .map(move |(delivered, payload)| {
                let held = UnixHeld {
                    client: Arc::clone(client),
                    link: Arc::clone(link),
                    ticket: delivered.ticket,
                };
                PortDelivery::new(client.welcome.id, delivered.metadata, payload, held)
                    .with_headers(delivered.headers)
            }))
    }
}

/// Splits `bytes` into the consecutive payloads of `list`.
fn split(mut bytes: Vec<u8>, list: &[Delivered]) -> Result<Vec<Vec<u8>>, WireError> {
    let lengths = || list.iter().map(|delivered| delivered.bytes as usize);
    if lengths().sum::<usize>() != bytes.len() {
        return Err(WireError::Unasked(
            "payloads of another length than announced",
        ));
    }
    if list.len() == 1 {
        return Ok(vec![bytes]);
    }
    let cut = |len: usize| {
        let rest = bytes.split_off(len);
        std::mem::replace(&mut bytes, rest)
    };
    Ok(lengths().map(cut).collect())
}

impl ReceivePort for UnixReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        let mut received = None;
        self.receive(1, wait, |delivery| received = Some(delivery))?;
        received.ok_or_else(|| nonsense().into())
    }

    fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
        into: &mut Vec<PortDelivery>,
    ) -> Result<(), RecvPortError> {
        if most == 0 {
            return Ok(());
        }
        self.receive(most, wait, |delivery| into.push(delivery))
    }

    fn notifier(&self) -> Notifier {
        wait_queue::notifier(&self.0.client, Side::Items)
    }
}

impl PublishOnce for UnixPlace {
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let payload = [&payload[..]];
        let carried = carried(&payload)?;
        let ask = Ask::Publish { loan: self.loan };
        match self
            .link
            .call(&ask, &carried, Wait::No)
            .map_err(Unavailable::from)?
            .what
        {
            Answer::Sent(sent) => Ok(sent?),
            _ => Err(nonsense().into()),
        }
    }

    fn abandon(&self) {
        // Waits for the answer, so that the place is free on return. If the connection has ended,
        // it is free already.
        let ask = Ask::Abandon { loan: self.loan };
        let _ = self.link.call(&ask, &Carried::None, Wait::No);
    }

    fn queue(&self) -> String {
        self.client.address()
    }
}

impl SettleOnce for UnixHeld {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        let ticket = self.ticket;
        let how = how.into();
        self.ask(&Ask::Settle { ticket, how })
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        let ticket = self.ticket;
        self.ask(&Ask::Extend { ticket, by })
    }

    fn together(&self) -> Option<(Arc<dyn AckTogether>, u64)> {
        Some((Arc::clone(&self.link) as _, self.ticket))
    }

    fn queue(&self) -> String {
        self.client.address()
    }
}

impl UnixHeld {
    fn ask(&self, ask: &Ask) -> Result<(), SettleFailure> {
        match self.link.call(ask, &Carried::None, Wait::No) {
            Ok(answer) => match answer.what {
                Answer::Settled(settled) => Ok(settled?),
                _ => Err(nonsense().into()),
            },
            Err(lost) => Err(not_settled(lost)),
        }
    }
}

fn not_settled(lost: Lost) -> SettleFailure {
    match lost {
        Lost::Forked => Unavailable::Forked.into(),
        // The lease ended with the connection.
        Lost::Before(_) => SettleFailure::LeaseLost,
        Lost::Meanwhile(why) => Unavailable::transport(format!(
            "it is unknown whether the message was settled: {why}"
        ))
        .into(),
    }
}

/// Sends one request for as many acks as fit into a frame.
impl AckTogether for Link {
    fn ack_all(&self, tickets: &[u64]) -> Vec<Result<(), SettleFailure>> {
        let frames = tickets.chunks(MOST_IN_FRAME);
        let answers = frames.flat_map(|tickets| {
            let answer = self.start_frame(tickets);
            acked(
                tickets.len(),
                answer.and_then(|id| self.answer(id, Wait::No)),
            )
        });
        answers.collect()
    }

    fn start_acks(self: Arc<Self>, tickets: &[u64]) -> Option<Box<dyn AcksInFlight>> {
        let frames = tickets.chunks(MOST_IN_FRAME);
        let frames = frames.map(|tickets| (tickets.len(), self.start_frame(tickets)));
        let frames = frames.collect();
        Some(Box::new(UnixAcks { link: self, frames }))
    }
}

impl Link {
    fn start_frame(&self, tickets: &[u64]) -> Result<u32, Lost> {
        let tickets = tickets.to_vec();
        self.ask(&Ask::AckBatch { tickets }, &Carried::None)
    }
}

impl AcksInFlight for UnixAcks {
    fn confirm(self: Box<Self>) -> Vec<Result<(), SettleFailure>> {
        let answers = self.frames.into_iter().flat_map(|(count, asked)| {
            let answer = asked.and_then(|id| match self.link.is_ours() {
                true => self.link.answer(id, Wait::No),
                false => Err(Lost::Forked),
            });
            acked(count, answer)
        });
        answers.collect()
    }
}

/// Returns the results of `count` acks of one frame.
fn acked(count: usize, answer: Result<Received<Answer>, Lost>) -> Vec<Result<(), SettleFailure>> {
    let mut ended = vec![Ok(()); count];
    match answer.map(|answer| answer.what) {
        Ok(Answer::AckedBatch(failures)) => {
            for (index, failed) in failures {
                if let Some(one) = ended.get_mut(index as usize) {
                    *one = Err(failed.into());
                }
            }
        }
        Ok(_) => ended.fill(Err(nonsense().into())),
        Err(lost) => ended.fill(Err(not_settled(lost))),
    }
    ended
}
