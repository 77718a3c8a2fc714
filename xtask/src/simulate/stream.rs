//! What a partition's log says, as far as it was applied: the messages it holds, the ids that it remembers, and what became of
//! messages. A pure function of the log, so that all replicas agree.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::agenda::Time;
use super::event::{Answer, Message};
use super::mutation::Break;
use super::plan::{DEDUP_WINDOW, LIMIT};

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: u32,
    /// When its leader made it, by that one's clock, which may have jumped.
    pub stamp: Time,
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A new leader's first entry: with it, what earlier ones left is decided.
    Begin,
    Store {
        message: Message,
        key: u32,
    },
    Ack {
        sequence: u32,
        message: Message,
    },
    Answer(Answer),
}

/// What applying an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Stored(Message),
    Duplicate,
    Full,
    /// With the message that had this sequence, if one had.
    Acked(Option<Message>),
    Answered {
        is_first: bool,
    },
}

#[derive(Debug, Default)]
pub struct Stream {
    stored: BTreeMap<u32, Message>,
    keys: HashMap<u32, Time>,
    /// The keys, oldest first.
    recent: VecDeque<(Time, u32)>,
    /// The latest that a leader's clock said: a later leader's may say less.
    newest: Time,
    answers: HashMap<Message, Answer>,
}

impl Stream {
    pub fn apply(&mut self, sequence: u32, entry: &Entry, broken: Option<Break>) -> Effect {
        match entry.command {
            Command::Begin => Effect::Nothing,
            Command::Store { message, key } => {
                self.newest = self.newest.max(entry.stamp);
                self.forget_keys();
                let is_known = self.keys.contains_key(&key);
                if is_known && broken != Some(Break::NoDedup) {
                    return Effect::Duplicate;
                }
                if self.stored.len() >= LIMIT && broken != Some(Break::NoLimit) {
                    return Effect::Full;
                }
                self.stored.insert(sequence, message);
                self.keys.insert(key, entry.stamp);
                self.recent.push_back((entry.stamp, key));
                Effect::Stored(message)
            }
            Command::Ack { sequence, .. } => Effect::Acked(self.stored.remove(&sequence)),
            Command::Answer(answer) => self.answer(answer, broken),
        }
    }

    fn answer(&mut self, answer: Answer, broken: Option<Break>) -> Effect {
        if broken == Some(Break::LastAnswerWins) {
            self.answers.insert(answer.message, answer);
            return Effect::Answered { is_first: true };
        }
        let first = self.answers.entry(answer.message).or_insert(answer);
        // Asked again by the same worker, because the answer to its answer got lost.
        let is_first = first.token == answer.token;
        Effect::Answered { is_first }
    }

    fn forget_keys(&mut self) {
        while let Some((stamp, key)) = self.recent.front().copied() {
            if stamp + DEDUP_WINDOW > self.newest {
                break;
            }
            self.recent.pop_front();
            // Unless it came again and is remembered from then.
            if self.keys.get(&key) == Some(&stamp) {
                self.keys.remove(&key);
            }
        }
    }

    pub fn message(&self, sequence: u32) -> Option<Message> {
        self.stored.get(&sequence).copied()
    }

    /// The sequences of what it holds, oldest first.
    pub fn sequences(&self) -> impl Iterator<Item = u32> {
        self.stored.keys().copied()
    }

    pub fn newest(&self) -> Time {
        self.newest
    }

    pub fn len(&self) -> usize {
        self.stored.len()
    }

    pub fn answer_of(&self, message: Message) -> Option<&Answer> {
        self.answers.get(&message)
    }
}
