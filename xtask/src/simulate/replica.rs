//! One copy of a partition's log, and how copies agree: Raft, as far as it matters here.
//!
//! An entry is committed when a majority has it, in memory: copies are written to disk later (`synced`). So a killed server
//! loses nothing, and one that loses its power loses its tail. Terms and votes are taken to be written at once.
//! Knows nothing of clients, nor of the network: what is to be said goes into an [`Outbox`].
//!
//! Source: Ongaro, Ousterhout, "In Search of an Understandable Consensus Algorithm". Without changes of membership and snapshots.

use super::agenda::Time;
use super::mutation::Break;
use super::plan::{ELECTION, HEARTBEAT, REPLICAS};
use super::stream::{Command, Effect, Entry, Stream};

/// What one replica says to another.
#[derive(Clone, Debug)]
pub struct Word {
    pub term: u32,
    pub saying: Saying,
}

#[derive(Clone, Debug)]
pub enum Saying {
    /// Have these after the first `after`, the last of which is of `after_term`.
    Append {
        after: usize,
        after_term: u32,
        entries: Vec<Entry>,
        committed: usize,
    },
    /// Has the first so many, as the leader has them.
    Matched(usize),
    /// Differs; may agree on so many.
    Differs(usize),
    Elect {
        len: usize,
        last_term: u32,
    },
    Vote,
    /// Neither votes nor follows; what counts is the term.
    Refuse,
}

/// What is to be said, and to whom.
pub type Outbox = Vec<(u8, Word)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Follower,
    /// With those who voted for it.
    Candidate([bool; REPLICAS]),
    Leader,
}

#[derive(Debug)]
pub struct Replica {
    me: u8,
    broken: Option<Break>,
    role: Role,
    term: u32,
    vote: Option<u8>,
    log: Vec<Entry>,
    /// How many entries a loss of power leaves.
    synced: usize,
    committed: usize,
    applied: usize,
    stream: Stream,
    /// When it last heard of a leader, or voted; as a leader, when it last spoke to all.
    heard: Time,
    patience: Time,
    /// As a leader: what each is to be sent next, and has.
    next: [usize; REPLICAS],
    matched: [usize; REPLICAS],
    /// Who misses something, and is asked what before more is sent.
    lags: [bool; REPLICAS],
}

/// How many entries are sent at a time.
const BATCH: usize = 256;

impl Replica {
    pub fn new(me: u8, broken: Option<Break>) -> Self {
        Self {
            me,
            broken,
            role: Role::Follower,
            term: 0,
            vote: None,
            log: Vec::new(),
            synced: 0,
            committed: 0,
            applied: 0,
            stream: Stream::default(),
            heard: 0,
            patience: ELECTION,
            next: [0; REPLICAS],
            matched: [0; REPLICAS],
            lags: [false; REPLICAS],
        }
    }

    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Whether it has applied what earlier leaders left, so that it may say what the stream holds.
    pub fn is_ready(&self) -> bool {
        let newest = self
            .applied
            .checked_sub(1)
            .map(|index| self.log[index].term);
        self.is_leader() && newest == Some(self.term)
    }

    pub fn term(&self) -> u32 {
        self.term
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Whether all that it has was decided and applied.
    pub fn is_idle(&self) -> bool {
        self.applied == self.log.len()
    }

    /// Starts again after a crash, with what it had.
    pub fn restart(&mut self, now: Time) {
        self.role = Role::Follower;
        self.heard = now;
    }

    /// Everything up to now is on disk.
    pub fn sync(&mut self) {
        self.synced = self.log.len();
    }

    /// Its server's power is gone; so is what was not on disk, which is returned, with where it began.
    pub fn lose_power(&mut self) -> (usize, Vec<Entry>) {
        let lost = self.log[self.synced..].to_vec();
        self.cut(self.synced);
        (self.synced, lost)
    }

    pub fn has(&self, index: usize, term: u32) -> bool {
        self.log.get(index).is_some_and(|entry| entry.term == term)
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Time, chance: Time, out: &mut Outbox) {
        if self.is_leader() {
            if now >= self.heard + HEARTBEAT {
                self.heard = now;
                for peer in self.peers() {
                    self.speak_to(peer, out);
                }
            }
        } else if now >= self.heard + self.patience {
            self.stand(now, chance, out);
        }
    }

    fn stand(&mut self, now: Time, chance: Time, out: &mut Outbox) {
        self.term += 1;
        self.vote = Some(self.me);
        let mut votes = [false; REPLICAS];
        votes[usize::from(self.me)] = true;
        self.role = Role::Candidate(votes);
        self.heard = now;
        self.patience = ELECTION + chance % ELECTION;
        let saying = Saying::Elect {
            len: self.log.len(),
            last_term: self.term_before(self.log.len()),
        };
        for peer in self.peers() {
            self.say(peer, saying.clone(), out);
        }
    }

    /// Appends an entry, as the leader. Its place in the log.
    pub fn propose(&mut self, command: Command, stamp: Time, out: &mut Outbox) -> usize {
        let term = self.term;
        self.log.push(Entry {
            term,
            stamp,
            command,
        });
        for peer in self.peers() {
            if !self.lags[usize::from(peer)] {
                self.speak_to(peer, out);
            }
        }
        self.commit();
        self.log.len() - 1
    }

    /// Hears what another says. `true`: it is the leader, since now.
    pub fn hear(&mut self, from: u8, word: Word, now: Time, stamp: Time, out: &mut Outbox) -> bool {
        if word.term > self.term {
            self.term = word.term;
            self.vote = None;
            self.role = Role::Follower;
        }
        let is_current = word.term == self.term;
        let peer = usize::from(from);
        match word.saying {
            Saying::Append { .. } if !is_current => {
                // So that it learns the term.
                self.say(from, Saying::Refuse, out);
            }
            Saying::Append {
                after,
                after_term,
                entries,
                committed,
            } => {
                self.role = Role::Follower;
                self.heard = now;
                let saying = self.append(after, after_term, entries, committed);
                self.say(from, saying, out);
            }
            Saying::Elect { len, last_term } => {
                if is_current && self.may_vote(from, len, last_term) {
                    self.vote = Some(from);
                    self.heard = now;
                    self.say(from, Saying::Vote, out);
                } else {
                    self.say(from, Saying::Refuse, out);
                }
            }
            Saying::Vote if is_current => return self.count(peer, now, stamp, out),
            Saying::Matched(len) if is_current && self.is_leader() => self.matched(from, len, out),
            Saying::Differs(len) if is_current && self.is_leader() => {
                // Everything that was under way when it missed something is answered like this.
                if !self.lags[peer] || len < self.next[peer] {
                    self.lags[peer] = true;
                    self.next[peer] = len.min(self.log.len());
                    self.speak_to(from, out);
                }
            }
            Saying::Vote | Saying::Matched(_) | Saying::Differs(_) | Saying::Refuse => {}
        }
        false
    }

    fn matched(&mut self, from: u8, len: usize, out: &mut Outbox) {
        let peer = usize::from(from);
        self.matched[peer] = self.matched[peer].max(len);
        self.next[peer] = self.next[peer].max(len);
        let has_lagged = std::mem::take(&mut self.lags[peer]);
        if has_lagged && self.next[peer] < self.log.len() {
            self.speak_to(from, out);
        }
        self.commit();
    }

    fn append(
        &mut self,
        after: usize,
        after_term: u32,
        entries: Vec<Entry>,
        committed: usize,
    ) -> Saying {
        if after > self.log.len() {
            return Saying::Differs(self.log.len());
        }
        if self.term_before(after) != after_term {
            // Nothing of a term that the leader does not know here can be right.
            let wrong = self.term_before(after);
            let mut len = after;
            while len > 0 && self.term_before(len) == wrong {
                len -= 1;
            }
            return Saying::Differs(len);
        }
        let end = after + entries.len();
        for (index, entry) in (after..).zip(entries) {
            if !self.has(index, entry.term) {
                self.cut(index);
                self.log.push(entry);
            }
        }
        self.committed = self.committed.max(committed.min(end));
        Saying::Matched(end)
    }

    /// Forgets all but the first entries. If what goes was applied, everything is applied anew: it was not committed after all,
    /// because copies of it were lost.
    fn cut(&mut self, len: usize) {
        if len >= self.log.len() {
            return;
        }
        self.log.truncate(len);
        self.synced = self.synced.min(len);
        self.committed = self.committed.min(len);
        if self.applied > len {
            self.applied = 0;
            self.stream = Stream::default();
        }
    }

    fn may_vote(&self, who: u8, len: usize, last_term: u32) -> bool {
        let mine = (self.term_before(self.log.len()), self.log.len());
        let has_as_much = (last_term, len) >= mine || self.broken == Some(Break::VoteForAnybody);
        has_as_much && self.vote.is_none_or(|vote| vote == who)
    }

    fn count(&mut self, peer: usize, now: Time, stamp: Time, out: &mut Outbox) -> bool {
        let Role::Candidate(votes) = &mut self.role else {
            return false;
        };
        votes[peer] = true;
        if votes.iter().filter(|vote| **vote).count() <= REPLICAS / 2 {
            return false;
        }
        self.role = Role::Leader;
        self.heard = now;
        self.next = [self.log.len(); REPLICAS];
        self.matched = [0; REPLICAS];
        self.lags = [false; REPLICAS];
        self.propose(Command::Begin, stamp, out);
        true
    }

    /// As the leader: an entry of its own term that a majority has is committed, with all before it.
    fn commit(&mut self) {
        self.matched[usize::from(self.me)] = self.log.len();
        let mut matched = self.matched;
        matched.sort_unstable();
        let majority = if self.broken == Some(Break::QuorumOfOne) {
            self.log.len()
        } else {
            matched[REPLICAS / 2]
        };
        if majority > self.committed && self.term_before(majority) == self.term {
            self.committed = majority;
        }
    }

    /// Applies the next committed entry, if there is one: which, and what it did.
    pub fn apply_next(&mut self) -> Option<(usize, Entry, Effect)> {
        if self.applied >= self.committed {
            return None;
        }
        let index = self.applied;
        let entry = self.log[index];
        self.applied += 1;
        #[expect(clippy::cast_possible_truncation, reason = "a run has fewer")]
        let effect = self.stream.apply(index as u32, &entry, self.broken);
        Some((index, entry, effect))
    }

    /// Sends what comes next to one. Takes it to arrive, unless that one misses something: whoever does, says so.
    fn speak_to(&mut self, peer: u8, out: &mut Outbox) {
        let after = self.next[usize::from(peer)];
        let end = self.log.len().min(after + BATCH);
        if !self.lags[usize::from(peer)] {
            self.next[usize::from(peer)] = end;
        }
        let saying = Saying::Append {
            after,
            after_term: self.term_before(after),
            entries: self.log[after..end].to_vec(),
            committed: self.committed,
        };
        self.say(peer, saying, out);
    }

    fn peers(&self) -> impl Iterator<Item = u8> + use<> {
        let me = self.me;
        (0..REPLICAS as u8).filter(move |peer| *peer != me)
    }

    fn say(&self, peer: u8, saying: Saying, out: &mut Outbox) {
        let term = self.term;
        out.push((peer, Word { term, saying }));
    }

    /// The term of the last of the first `len` entries.
    fn term_before(&self, len: usize) -> u32 {
        len.checked_sub(1).map_or(0, |index| self.log[index].term)
    }
}
