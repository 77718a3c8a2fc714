//! The traffic that the coordinator itself saw.
//!
//! Most transports keep one set of counters for all processes. Over a network each process knows
//! only its own part. The answers then show what must have happened elsewhere.

use ipc_queue::QueueStats;

use crate::report::Transfer;

/// The number of deliveries of tasks whose end is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    deliveries: u64,
    redeliveries: u64,
}

impl Tally {
    /// Notes that a task ended at this attempt.
    pub(crate) fn ended(&mut self, attempt: u8) {
        self.deliveries += u64::from(attempt);
        self.redeliveries += u64::from(attempt.saturating_sub(1));
    }

    /// The number of repeated deliveries.
    pub(crate) fn redelivered(&self, tasks: &QueueStats) -> u64 {
        tasks.redelivered.max(self.redeliveries)
    }

    /// The traffic of the two queues, with these errors.
    pub(crate) fn transfer(
        &self,
        tasks: &QueueStats,
        answers: &QueueStats,
        errors: u64,
    ) -> Transfer {
        Transfer {
            // A received message was also sent.
            messages_sent: tasks.sent + answers.sent.max(answers.received),
            messages_received: tasks.received.max(self.deliveries) + answers.received,
            bytes_transferred: tasks.bytes_sent + answers.bytes_sent.max(answers.bytes_received),
            errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_counts_are_derived_from_the_answers() {
        let mut tally = Tally::default();
        tally.ended(1);
        tally.ended(3);
        let mut own = (QueueStats::default(), QueueStats::default());
        (own.0.sent, own.1.received) = (2, 6);
        let transfer = tally.transfer(&own.0, &own.1, 0);
        let counted = (transfer.messages_sent, transfer.messages_received);
        assert_eq!((counted, tally.redelivered(&own.0)), ((8, 10), 2));
        let mut all = own;
        (all.0.received, all.0.redelivered, all.1.sent) = (5, 3, 7);
        let transfer = tally.transfer(&all.0, &all.1, 0);
        let counted = (transfer.messages_sent, transfer.messages_received);
        assert_eq!((counted, tally.redelivered(&all.0)), ((9, 11), 3));
    }
}
