//! Wrong variants of the model. Each must be noticed by the ledger, or the ledger is worth nothing.

use clap::ValueEnum;

/// One thing done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Break {
    /// The bridge acks in the local queue before the cluster confirmed
    AckBeforePublish,
    /// The bridge takes a time-out for a confirmation
    AckOnTimeout,
    /// Each attempt to publish has an id of its own
    FreshIds,
    /// The cluster stores whatever comes, also again
    NoDedup,
    /// The leader confirms what only it has
    QuorumOfOne,
    /// Replicas vote for whoever asks, whatever that one has in its log
    VoteForAnybody,
    /// A repeated publish is confirmed while the first is not yet on a majority
    ConfirmInFlight,
    /// Workers answer when their lease is over
    SettleAfterAckWait,
    /// Workers time their lease by a clock that can be set
    LeaseByWallClock,
    /// Workers ack before they published the answer
    AckBeforeAnswer,
    /// A later answer replaces an earlier one
    LastAnswerWins,
    /// The local queue accepts the ack of a lease that was lost
    StaleLocalAck,
    /// Nobody gives back what a killed process held
    NoRecovery,
    /// The cluster does not deliver again what nobody acked
    NoRedelivery,
    /// Partitions have no limit
    NoLimit,
    /// Nobody buries a message that kills every worker
    NoAttemptLimit,
}

impl Break {
    #[cfg(test)]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }
}
