//! Deliveries of ports, acknowledged together if their transport supports that.

use std::sync::Arc;

use ipc_proto::MessageId;

use crate::error::{SettleError, SettleFailure, Unavailable};
use crate::settle_once::{AckTogether, SettleOnce};

/// Deliveries that are going to be acknowledged.
#[derive(Default)]
pub(crate) struct Together(Vec<Group>);

/// The deliveries that one call acknowledges.
struct Group {
    acker: Arc<dyn AckTogether>,
    numbers: Vec<u64>,
    members: Vec<Member>,
}

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
                group.members.push(member);
            }
            None => self.0.push(Group {
                acker,
                numbers: vec![number],
                members: vec![member],
            }),
        }
        Ok(())
    }

    /// Acknowledges all of them; `failed` is called for each that was not, with its index.
    pub(crate) fn ack(self, mut failed: impl FnMut(usize, SettleError)) {
        for group in self.0 {
            let mut ended = group.acker.ack_all(&group.numbers).into_iter();
            for member in group.members {
                let unanswered = || Err(SettleFailure::from(Unavailable::transport(UNANSWERED)));
                if let Err(failure) = ended.next().unwrap_or_else(unanswered) {
                    let error = failure.of(member.right.queue(), member.message);
                    failed(member.index, error);
                }
            }
        }
    }
}

const UNANSWERED: &str = "the transport did not say whether the message was acknowledged";
