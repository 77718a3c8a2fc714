//! Deliveries of ports, acknowledged together if their transport supports that.

use std::sync::Arc;

use ipc_proto::MessageId;

use crate::error::{SettleError, SettleFailure, Unavailable};
use crate::settle_once::{AckTogether, AcksInFlight, SettleOnce};

/// Deliveries that are going to be acknowledged.
#[derive(Default)]
pub(crate) struct Together(Vec<Group>);

/// The deliveries that one call acknowledges.
struct Group {
    acker: Arc<dyn AckTogether>,
    numbers: Vec<u64>,
    members: Members,
}

/// The deliveries whose acks one call has sent.
pub(crate) struct InFlight {
    acks: Box<dyn AcksInFlight>,
    members: Members,
}

struct Members(Vec<Member>);

struct Member {
    /// Its index in the batch.
    index: usize,
    message: MessageId,
    /// Kept for the queue's address. It is not informed how the delivery ends.
    right: Box<dyn SettleOnce>,
}

impl Together {
    /// Adds a delivery, or returns the right to settle it if it must be acknowledged separately.
    pub(crate) fn add(
        &mut self,
        index: usize,
        message: MessageId,
        right: Box<dyn SettleOnce>,
    ) -> Result<(), Box<dyn SettleOnce>> {
        let Some((acker, number)) = right.together() else {
            return Err(right);
        };
        let at = Arc::as_ptr(&acker).cast::<()>();
        let same = |group: &&mut Group| Arc::as_ptr(&group.acker).cast::<()>() == at;
        let member = Member {
            index,
            message,
            right,
        };
        match self.0.iter_mut().rev().find(same) {
            Some(group) => {
                group.numbers.push(number);
                group.members.0.push(member);
            }
            None => self.0.push(Group {
                acker,
                numbers: vec![number],
                members: Members(vec![member]),
            }),
        }
        Ok(())
    }

    /// Returns the number of deliveries.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|group| group.members.len()).sum()
    }

    /// Acknowledges all of them; `failed` is called for each that was not, with its index.
    pub(crate) fn ack(self, mut failed: impl FnMut(usize, SettleError)) {
        for group in self.0 {
            let ended = group.acker.ack_all(&group.numbers);
            group.members.report(ended, &mut failed);
        }
    }

    /// Sends the acks of all of them. Those of a transport that waits for its answers are confirmed
    /// at once; `failed` is called for each of these that failed, with its index.
    pub(crate) fn start(self, mut failed: impl FnMut(usize, SettleError)) -> Vec<InFlight> {
        let mut started = Vec::new();
        for group in self.0 {
            let Group {
                acker,
                numbers,
                members,
            } = group;
            match Arc::clone(&acker).start_acks(&numbers) {
                Some(acks) => started.push(InFlight { acks, members }),
                None => members.report(acker.ack_all(&numbers), &mut failed),
            }
        }
        started
    }
}

impl InFlight {
    /// Returns the number of deliveries.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Waits until they are confirmed; `failed` is called for each that is not, with its index.
    pub(crate) fn confirm(self, mut failed: impl FnMut(usize, SettleError)) {
        self.members.report(self.acks.confirm(), &mut failed);
    }
}

impl Members {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// Calls `failed` for each member that was not acknowledged.
    fn report(
        self,
        ended: Vec<Result<(), SettleFailure>>,
        failed: &mut impl FnMut(usize, SettleError),
    ) {
        let mut ended = ended.into_iter();
        for member in self.0 {
            let unanswered = || Err(SettleFailure::from(Unavailable::transport(UNANSWERED)));
            if let Err(failure) = ended.next().unwrap_or_else(unanswered) {
                let error = failure.of(member.right.queue(), member.message);
                failed(member.index, error);
            }
        }
    }
}

const UNANSWERED: &str = "the transport did not say whether the message was acknowledged";
