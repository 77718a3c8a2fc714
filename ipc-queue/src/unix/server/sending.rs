//! A connection that is a sender. The stack of its thread holds the client's loans.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ipc_proto::{Kind, MessageId};

use super::connection::{Connection, Event};
use crate::asynchronous::may_pass;
use crate::bytes::{ByteQueue, ByteSender};
use crate::error::{SendFailure, SendPortError, Unavailable};
use crate::loan::Loan;
use crate::notifier::Waiter;
use crate::readiness::WakeFd;
use crate::send_options::SendOptions;
use crate::unix::failures::SendFailed;
use crate::unix::frame::{Carried, Payload};
use crate::unix::wire::{Answer, Ask, Patience};
use crate::unix::wire_error::WireError;
use crate::wait::Wait;

/// Serves the connection until it ends. Then the client's places are free.
pub(super) fn serve(connection: &mut Connection<'_>, id: u32) -> Result<(), WireError> {
    let queue = ByteQueue::over(Arc::clone(&connection.shared.queue));
    let port = queue.sender();
    let wake_fd = WakeFd::new().map_err(WireError::io)?;
    connection.answer(id, &Answer::Done, &Carried::None)?;
    let mut sending = Sending {
        connection,
        port: &port,
        wake_fd,
        loans: HashMap::new(),
        last_loan: 0,
        waiting: None,
    };
    sending.run()
}

struct Sending<'p, 'c, 's> {
    connection: &'c mut Connection<'s>,
    port: &'p ByteSender,
    wake_fd: Arc<WakeFd>,
    loans: HashMap<u64, Loan<'p>>,
    last_loan: u64,
    waiting: Option<Waiting>,
}

/// A request that is still in progress.
enum Want {
    Send {
        options: SendOptions,
        payload: Payload,
    },
    Lend {
        bytes: usize,
        options: SendOptions,
    },
    Batch(Batch),
}

/// Messages to be sent one after the other.
struct Batch {
    kind: Kind,
    lengths: Vec<u32>,
    bytes: Vec<u8>,
    /// The number of messages sent so far.
    sent: usize,
}

/// A send that has not found room yet.
struct Waiting {
    id: u32,
    want: Want,
    since: Instant,
    /// `None`: without a limit.
    until: Option<Instant>,
    waiter: Waiter,
}

impl Sending<'_, '_, '_> {
    fn run(&mut self) -> Result<(), WireError> {
        loop {
            let Some(waiting) = &self.waiting else {
                let request = self.connection.next()?;
                self.act(request.id, request.what, request.payload)?;
                continue;
            };
            match self.connection.next_event(&self.wake_fd, waiting.until)? {
                Event::Request(request) => self.act(request.id, request.what, request.payload)?,
                Event::Woken => self.look_again()?,
                Event::TimeUp => self.give_up()?,
            }
        }
    }

    fn act(&mut self, id: u32, ask: Ask, payload: Payload) -> Result<(), WireError> {
        let answer = match ask {
            Ask::Send { options, patience } => {
                return self.begin(id, Want::Send { options, payload }, patience);
            }
            Ask::Lend {
                bytes,
                options,
                patience,
            } => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                return self.begin(id, Want::Lend { bytes, options }, patience);
            }
            Ask::SendBatch {
                kind,
                patience,
                lengths,
            } => {
                let batch = Batch::new(kind, lengths, payload)?;
                return self.begin(id, Want::Batch(batch), patience);
            }
            Ask::Publish { loan } => Answer::Sent(self.publish(loan, &payload).map_err(Into::into)),
            Ask::Abandon { loan } => {
                if let Some(loan) = self.loans.remove(&loan) {
                    drop(loan);
                    self.connection.shared.holders.returned();
                }
                Answer::Done
            }
            _ => return Err(WireError::Unasked("this connection is a sender")),
        };
        self.connection.answer(id, &answer, &Carried::None)
    }

    fn begin(&mut self, id: u32, mut want: Want, patience: Patience) -> Result<(), WireError> {
        if self.waiting.is_some() {
            return Err(WireError::Unasked("this sender is already waiting"));
        }
        let since = Instant::now();
        let failure = match self.attempt(&mut want) {
            Ok(answer) => return self.connection.answer(id, &answer, &Carried::None),
            Err(failure) => failure,
        };
        if patience == Patience::None || !may_pass(&failure) {
            let answer = want.failed(failure);
            return self.connection.answer(id, &answer, &Carried::None);
        }
        let until = match Wait::from(patience) {
            Wait::Until(deadline) => Some(deadline),
            Wait::No | Wait::Forever => None,
        };
        self.waiting = Some(Waiting {
            id,
            want,
            since,
            until,
            waiter: self.port.notifier().waiter(),
        });
        self.look_again()
    }

    /// Registers as a waiter, and tries once more, so that no place that becomes free in between is
    /// missed.
    fn look_again(&mut self) -> Result<(), WireError> {
        let Some(mut waiting) = self.waiting.take() else {
            return Ok(());
        };
        // If the descriptor is lost, polling it reports that.
        let _ = self.wake_fd.clear();
        let listening = waiting.waiter.register(&self.wake_fd.waker());
        listening.map_err(WireError::io)?;
        match self.attempt(&mut waiting.want) {
            Err(failure) if may_pass(&failure) => {
                self.waiting = Some(waiting);
                Ok(())
            }
            tried => self.stop_waiting(waiting, tried),
        }
    }

    /// Ends the wait with a last attempt: there may be room now.
    fn give_up(&mut self) -> Result<(), WireError> {
        let Some(mut waiting) = self.waiting.take() else {
            return Ok(());
        };
        let waited = waiting.since.elapsed();
        let tried = self.attempt(&mut waiting.want);
        let tried = tried.map_err(|error| match error {
            SendPortError::NoRoom { missing, dead, .. } => SendPortError::NoRoom {
                missing,
                waited: Some(waited),
                dead,
            },
            other => other,
        });
        self.stop_waiting(waiting, tried)
    }

    fn stop_waiting(
        &mut self,
        waiting: Waiting,
        tried: Result<Answer, SendPortError>,
    ) -> Result<(), WireError> {
        match tried {
            Err(SendPortError::NoRoom { .. }) => drop(waiting.waiter),
            _ => waiting.waiter.found(self.port.has_more()),
        }
        let answer = tried.unwrap_or_else(|failure| waiting.want.failed(failure));
        self.connection.answer(waiting.id, &answer, &Carried::None)
    }

    /// Performs the request if there is room.
    fn attempt(&mut self, want: &mut Want) -> Result<Answer, SendPortError> {
        match want {
            Want::Send { options, payload } => Ok(Answer::Sent(Ok(self.send(options, payload)?))),
            Want::Lend { bytes, options } => {
                let options = options.clone().wait(Wait::No);
                let loan = self.port.port_loan_with(*bytes, &options)?;
                self.last_loan += 1;
                self.loans.insert(self.last_loan, loan);
                Ok(Answer::Lent(Ok(self.last_loan)))
            }
            Want::Batch(batch) => {
                batch.send(self.port)?;
                let sent = batch.sent as u32;
                Ok(Answer::SentBatch {
                    sent,
                    failure: None,
                })
            }
        }
    }

    fn send(&self, options: &SendOptions, payload: &Payload) -> Result<MessageId, SendPortError> {
        if let (None, Payload::Inline(bytes)) = (options.first_feature(), payload) {
            return self.port.port_send_as(options.kind, bytes, || Wait::No);
        }
        let options = options.clone().wait(Wait::No);
        let mut loan = self.port.port_loan_with(payload.len(), &options)?;
        fill(&mut loan, payload)?;
        Ok(loan.publish_port()?)
    }

    fn publish(&mut self, loan: u64, payload: &Payload) -> Result<MessageId, SendFailure> {
        let Some(mut loan) = self.loans.remove(&loan) else {
            return Err(Unavailable::transport("this loan does not exist").into());
        };
        let filled = fill(&mut loan, payload);
        let published = filled.and_then(|()| loan.publish_port());
        self.connection.shared.holders.returned();
        published
    }
}

fn fill(loan: &mut Loan<'_>, payload: &Payload) -> Result<(), SendFailure> {
    if loan.len() != payload.len() {
        let (lent, came) = (loan.len(), payload.len());
        let reason = format!("{came} bytes were received for a loan of {lent}");
        return Err(Unavailable::transport(reason).into());
    }
    let copied = payload.copy_to(loan);
    copied.map_err(|error| {
        Unavailable::transport(format!("the payload cannot be read: {error}")).into()
    })
}

impl Want {
    fn failed(&self, error: SendPortError) -> Answer {
        let failed = SendFailed::from(error);
        match self {
            Self::Send { .. } => Answer::Sent(Err(failed)),
            Self::Lend { .. } => Answer::Lent(Err(failed)),
            Self::Batch(batch) => Answer::SentBatch {
                sent: batch.sent as u32,
                failure: Some(failed),
            },
        }
    }
}

impl Batch {
    fn new(kind: Kind, lengths: Vec<u32>, payload: Payload) -> Result<Self, WireError> {
        let bytes = match payload {
            Payload::Inline(bytes) => bytes,
            Payload::Sealed(_) => return Err(WireError::Unasked("a batch must be in its frame")),
        };
        let said: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
        if said != bytes.len() as u64 {
            return Err(WireError::Unasked(
                "payloads of another length than announced",
            ));
        }
        Ok(Self {
            kind,
            lengths,
            bytes,
            sent: 0,
        })
    }

    /// Sends the remaining messages, as far as there is room.
    fn send(&mut self, port: &ByteSender) -> Result<(), SendPortError> {
        let mut rest = &self.bytes[..];
        let mut payloads = Vec::with_capacity(self.lengths.len());
        for length in &self.lengths {
            let (payload, behind) = rest.split_at(*length as usize);
            payloads.push(payload);
            rest = behind;
        }
        let left = &payloads[self.sent..];
        match port.port_send_batch(left, self.kind, Wait::No) {
            Ok(()) => {
                self.sent = self.lengths.len();
                Ok(())
            }
            Err(failed) => {
                self.sent += failed.sent;
                Err(failed.error)
            }
        }
    }
}

impl Drop for Sending<'_, '_, '_> {
    fn drop(&mut self) {
        self.waiting = None;
        for (_, loan) in std::mem::take(&mut self.loans) {
            drop(loan);
            self.connection.shared.holders.returned();
        }
    }
}
