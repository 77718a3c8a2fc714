//! The accounts: what was accepted under which guarantee, what became of it, and what happened that the guarantee excludes.
//!
//! Sees everything, takes part in nothing. A message that was accepted must in the end be done or a dead letter, by one answer;
//! or something must have happened to it that its guarantee excludes, and then it is in the account of that. Anything else is a violation.

use super::agenda::Time;
use super::event::{Answer, Message, Outcome};
use super::plan::{DEDUP_WINDOW, LIMIT};
use super::stream::{Command, Entry};

/// What a sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// It is in the host's queue: it survives every process, and is lost with the host.
    Host,
    /// It is in the cluster: it survives as long as a majority of its partition's replicas have it, and what a server was told less
    /// than the time between syncs ago goes with its power.
    Cluster,
}

/// Why a message may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// Its host rebooted before the cluster confirmed it.
    Reboot,
    /// Loss of power left too few copies of it.
    MessageErased,
    /// The same, of what became of it.
    AnswerErased,
    /// It got the sequence of one that was erased, and then the ack that was meant for that.
    SequenceReused,
}

#[derive(Debug, Default)]
pub struct Ledger {
    records: Vec<Record>,
    tokens: u32,
    pub refused: u64,
    pub leases_lost: u64,
    pub duplicates: u64,
    pub elections: u64,
    pub deliveries: u64,
    pub redeliveries: u64,
    pub stored_again: StoredAgain,
    pub worked_again: u64,
    pub second_answers: u64,
    pub violations: Violations,
}

#[derive(Debug)]
struct Record {
    host: u32,
    partition: u16,
    answers: u16,
    is_poison: bool,
    accepted: Option<Guarantee>,
    accepted_at: Time,
    stored: Option<Stored>,
    worked: u32,
    /// The answer that a worker was told is the first.
    told: Option<u32>,
    told_at: Time,
    excuses: [bool; 4],
}

/// Where and when a message was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub index: usize,
    pub term: u32,
    /// By its leader's clock.
    pub stamp: Time,
    /// The latest that the clocks of the partition's leaders had said then.
    pub newest: Time,
    pub at: Time,
}

/// Stored again when the first was forgotten: why.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoredAgain {
    pub after_the_window: u64,
    pub after_a_clock_jump: u64,
    pub after_loss: u64,
}

/// What went wrong: how often, and the first of each kind.
#[derive(Debug, Default)]
pub struct Violations {
    pub count: u64,
    pub found: Vec<String>,
}

/// How one message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    DeadLetter,
    Excluded(Excuse),
    Lost,
    /// Nobody was told that it was accepted; whether it was done all the same.
    NotAccepted {
        is_done: bool,
    },
}

impl Violations {
    const SHOWN: usize = 20;

    pub fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.found.len() < Self::SHOWN {
            self.found.push(what());
        }
    }
}

impl Ledger {
    pub fn offer(
        &mut self,
        host: u32,
        partition: u16,
        partitions: u16,
        is_poison: bool,
    ) -> Message {
        #[expect(clippy::cast_possible_truncation, reason = "a run has fewer")]
        let message = self.records.len() as u32;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than there are partitions"
        )]
        let step = (message % u32::from(partitions - 1)) as u16;
        self.records.push(Record {
            host,
            partition,
            // Never the message's own, so that one may be lost without the other.
            answers: (partition + 1 + step) % partitions,
            is_poison,
            accepted: None,
            accepted_at: 0,
            stored: None,
            worked: 0,
            told: None,
            told_at: 0,
            excuses: [false; 4],
        });
        message
    }

    fn record(&mut self, message: Message) -> &mut Record {
        &mut self.records[message as usize]
    }

    pub fn partition_of(&self, message: Message) -> u16 {
        self.records[message as usize].partition
    }

    pub fn answers_of(&self, message: Message) -> u16 {
        self.records[message as usize].answers
    }

    pub fn is_poison(&self, message: Message) -> bool {
        self.records[message as usize].is_poison
    }

    pub fn token(&mut self) -> u32 {
        self.tokens += 1;
        self.tokens
    }

    /// A process was told that a message is accepted.
    pub fn accept(&mut self, message: Message, guarantee: Guarantee, now: Time) {
        let record = self.record(message);
        if record.accepted.is_none() {
            record.accepted_at = now;
        }
        record.accepted = record.accepted.max(Some(guarantee));
    }

    pub fn excuse(&mut self, message: Message, excuse: Excuse) {
        self.record(message).excuses[excuse as usize] = true;
    }

    /// A majority no longer has an entry.
    pub fn erased(&mut self, entry: &Entry) {
        match entry.command {
            Command::Store { message, .. } => self.excuse(message, Excuse::MessageErased),
            Command::Answer(answer) => self.excuse(answer.message, Excuse::AnswerErased),
            // It is delivered again.
            Command::Ack { .. } | Command::Begin => {}
        }
    }

    /// A replica applied that a message is stored; its stream then held so many.
    pub fn stored(&mut self, message: Message, stored: Stored, held: usize) {
        if held > LIMIT {
            self.violations
                .add(|| format!("message {message}: stored as the {held}th of at most {LIMIT}"));
        }
        let record = &mut self.records[message as usize];
        let is_erased = record.excuses[Excuse::MessageErased as usize];
        let Some(first) = record.stored else {
            record.stored = Some(stored);
            return;
        };
        let is_known = stored.index <= first.index && !is_erased;
        if is_known || (first.index, first.term) == (stored.index, stored.term) {
            return;
        }
        record.stored = Some(stored);
        if is_erased {
            self.stored_again.after_loss += 1;
        } else if stored.newest < first.stamp + DEDUP_WINDOW {
            let times = (first.at, stored.at);
            self.violations.add(|| {
                format!("message {message}: stored twice within the window, at {times:?} µs")
            });
        } else if stored.at < first.at + DEDUP_WINDOW {
            self.stored_again.after_a_clock_jump += 1;
        } else {
            self.stored_again.after_the_window += 1;
        }
    }

    pub fn delivered(&mut self, attempt: u8) {
        self.deliveries += 1;
        self.redeliveries += u64::from(attempt > 1);
    }

    pub fn worked(&mut self, message: Message) {
        let record = self.record(message);
        record.worked += 1;
        self.worked_again += u64::from(record.worked > 1);
    }

    /// An ack took another message than the one that it was meant for.
    pub fn acked_by_mistake(&mut self, message: Message, partition_lost_some: bool) {
        if partition_lost_some {
            self.excuse(message, Excuse::SequenceReused);
        } else {
            self.violations
                .add(|| format!("message {message}: acked by the ack of another"));
        }
    }

    /// An answer was stored as the first.
    pub fn answered(&mut self, answer: &Answer) {
        if answer.is_late {
            self.violations.add(|| {
                format!(
                    "message {}: answered when the lease was over",
                    answer.message
                )
            });
        }
    }

    /// A worker was told whether its answer is the first.
    pub fn told(&mut self, answer: &Answer, is_first: bool, now: Time) {
        if !is_first {
            self.second_answers += 1;
            return;
        }
        let record = self.record(answer.message);
        let is_erased = record.excuses[Excuse::AnswerErased as usize];
        match record.told.replace(answer.token) {
            None => record.told_at = now,
            Some(token) if token == answer.token || is_erased => {}
            Some(_) => self
                .violations
                .add(|| format!("message {}: two answers were the first", answer.message)),
        }
    }

    /// Closes a message's account, with the answer that is stored in the end.
    pub fn close(&mut self, message: Message, answer: Option<Answer>) -> End {
        let record = &self.records[message as usize];
        let has = |excuse: Excuse| record.excuses[excuse as usize];
        let (told, is_erased) = (record.told, has(Excuse::AnswerErased));
        let excuses: &[Excuse] = match record.accepted {
            None => {
                return End::NotAccepted {
                    is_done: answer.is_some(),
                };
            }
            Some(Guarantee::Host) => &[Excuse::Reboot],
            Some(Guarantee::Cluster) => &[
                Excuse::MessageErased,
                Excuse::AnswerErased,
                Excuse::SequenceReused,
            ],
        };
        let Some(answer) = answer else {
            let excuse = excuses.iter().find(|excuse| has(**excuse));
            let host = record.host;
            return excuse.map_or_else(
                || {
                    self.violations
                        .add(|| format!("message {message} of host {host}: accepted, and lost"));
                    End::Lost
                },
                |excuse| End::Excluded(*excuse),
            );
        };
        if told.is_some_and(|token| token != answer.token) && !is_erased {
            self.violations
                .add(|| format!("message {message}: the answer changed"));
        }
        match answer.outcome {
            Outcome::Done => End::Done,
            Outcome::DeadLetter => End::DeadLetter,
        }
    }

    pub fn messages(&self) -> std::ops::Range<Message> {
        #[expect(clippy::cast_possible_truncation, reason = "a run has fewer")]
        let end = self.records.len() as u32;
        0..end
    }

    /// From when each was accepted until its answer was known to be the first, sorted.
    pub fn times_to_answer(&self) -> Vec<Time> {
        let times = self
            .records
            .iter()
            .filter(|record| record.told.is_some() && record.accepted.is_some());
        let mut times: Vec<Time> = times
            .map(|record| record.told_at.saturating_sub(record.accepted_at))
            .collect();
        times.sort_unstable();
        times
    }
}
