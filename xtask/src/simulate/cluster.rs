//! The servers: what a partition's leader does with requests, with what its replicas agree on, and with the clock.

use super::agenda::Time;
use super::desk::{Desk, Pull};
use super::event::{Answer, Ask, Delivery, Event, Reply, Request, Seat, Who};
use super::ledger::Stored;
use super::mutation::Break;
use super::network::{Network, link};
use super::plan::{ACK_WAIT, SYNC, TICK};
use super::replica::{Replica, Word};
use super::stream::{Command, Effect, Entry};
use super::world::{Partition, World};

impl World {
    fn partition(&mut self, seat: Seat) -> &mut Partition {
        &mut self.partitions[usize::from(seat.partition)]
    }

    fn replica(&mut self, seat: Seat) -> &mut Replica {
        &mut self.partition(seat).replicas[usize::from(seat.replica)]
    }

    fn desk(&mut self, seat: Seat) -> &mut Desk {
        &mut self.partition(seat).desks[usize::from(seat.replica)]
    }

    fn is_down(&self, seat: Seat) -> bool {
        self.servers[usize::from(self.server_of(seat))].is_down
    }

    /// A server's wall clock.
    fn stamp(&self, seat: Seat) -> Time {
        self.agenda.now() + self.servers[usize::from(self.server_of(seat))].clock_offset
    }

    pub fn request(&mut self, seat: Seat, request: Request) {
        if self.is_down(seat) || !self.replica(seat).is_leader() {
            return;
        }
        let command = match request.ask {
            Ask::Pull { until } => {
                let Request { who, call, .. } = request;
                self.desk(seat).pulls.push_back(Pull { who, call, until });
                return self.deliver(seat);
            }
            Ask::Publish { message, key } => Command::Store { message, key },
            Ask::Ack { sequence, message } => Command::Ack { sequence, message },
            Ask::Answer(answer) => Command::Answer(answer),
        };
        if self.plan.is_broken(Break::ConfirmInFlight) && self.is_under_way(seat, command) {
            return self.reply(seat, request, Reply::Stored);
        }
        let stamp = self.stamp(seat);
        let mut outbox = std::mem::take(&mut self.outbox);
        let index = self.replica(seat).propose(command, stamp, &mut outbox);
        self.desk(seat).waiting.insert(index, request);
        self.speak(seat, outbox);
        self.apply(seat);
    }

    /// Whether the same was proposed lately, decided or not.
    fn is_under_way(&mut self, seat: Seat, command: Command) -> bool {
        const LATELY: usize = 64;
        let is_store = matches!(command, Command::Store { .. });
        let log = self.replica(seat).log();
        let mut latest = log.iter().rev().take(LATELY);
        is_store && latest.any(|entry| entry.command == command)
    }

    pub fn raft(&mut self, from: u8, to: Seat, word: Word) {
        if self.is_down(to) {
            return;
        }
        let (now, stamp) = (self.agenda.now(), self.stamp(to));
        let mut outbox = std::mem::take(&mut self.outbox);
        let replica = self.replica(to);
        let was_leader = replica.is_leader();
        let is_elected = replica.hear(from, word, now, stamp, &mut outbox);
        let is_over = was_leader && !replica.is_leader();
        if is_over || is_elected {
            *self.desk(to) = Desk::default();
        }
        self.ledger.elections += u64::from(is_elected);
        self.speak(to, outbox);
        self.apply(to);
    }

    pub fn tick(&mut self, seat: Seat) {
        self.agenda.add_after(TICK, Event::Tick { seat });
        if self.is_down(seat) {
            return;
        }
        let (now, chance) = (self.agenda.now(), self.rng.u64(..));
        let mut outbox = std::mem::take(&mut self.outbox);
        self.replica(seat).tick(now, chance, &mut outbox);
        self.speak(seat, outbox);
    }

    fn speak(&mut self, seat: Seat, mut outbox: Vec<(u8, Word)>) {
        let server = self.server_of(seat);
        let now = self.agenda.now();
        for (peer, word) in outbox.drain(..) {
            let to = Seat {
                replica: peer,
                ..seat
            };
            if !self.network.server_reaches(server, self.server_of(to)) {
                continue;
            }
            let link = link(seat.partition, seat.replica, peer);
            let [first, second] = self.network.between_replicas(link, now, &mut self.rng);
            let from = seat.replica;
            if let Some(at) = second {
                let word = Box::new(word.clone());
                self.agenda.add_at(at, Event::Raft { from, to, word });
            }
            if let Some(at) = first {
                let word = Box::new(word);
                self.agenda.add_at(at, Event::Raft { from, to, word });
            }
        }
        self.outbox = outbox;
    }

    fn apply(&mut self, seat: Seat) {
        while let Some((index, entry, effect)) = self.replica(seat).apply_next() {
            self.note(seat, index, &entry, effect);
            if self.replica(seat).is_leader() {
                self.lead(seat, index, &entry, effect);
            }
        }
    }

    /// Tells the ledger.
    fn note(&mut self, seat: Seat, index: usize, entry: &Entry, effect: Effect) {
        let now = self.agenda.now();
        let stream = self.replica(seat).stream();
        let (held, newest) = (stream.len(), stream.newest());
        let has_lost = self.partition(seat).has_lost;
        match (effect, entry.command) {
            (Effect::Stored(message), _) => {
                let stored = Stored {
                    index,
                    term: entry.term,
                    stamp: entry.stamp,
                    newest,
                    at: now,
                };
                self.ledger.stored(message, stored, held);
            }
            (Effect::Acked(Some(message)), Command::Ack { message: meant, .. })
                if message != meant =>
            {
                self.ledger.acked_by_mistake(message, has_lost);
            }
            (Effect::Answered { is_first: true }, Command::Answer(answer)) => {
                self.ledger.answered(&answer);
            }
            _ => {}
        }
    }

    /// What a leader does when an entry is applied.
    fn lead(&mut self, seat: Seat, index: usize, entry: &Entry, effect: Effect) {
        let reply = match effect {
            Effect::Nothing => {
                self.open(seat);
                None
            }
            Effect::Stored(_) => {
                #[expect(clippy::cast_possible_truncation, reason = "a run has fewer")]
                self.desk(seat).ready.push_back(index as u32);
                Some(Reply::Stored)
            }
            Effect::Duplicate => {
                self.ledger.duplicates += 1;
                Some(Reply::Stored)
            }
            Effect::Full => Some(Reply::Full),
            Effect::Acked(_) => {
                if let Command::Ack { sequence, .. } = entry.command {
                    self.desk(seat).attempts.remove(&sequence);
                }
                Some(Reply::Acked)
            }
            Effect::Answered { is_first } => Some(Reply::Answered { is_first }),
        };
        if let (Some(request), Some(reply)) = (self.desk(seat).waiting.remove(&index), reply) {
            self.reply(seat, request, reply);
        }
        if matches!(effect, Effect::Stored(_)) {
            self.deliver(seat);
        }
    }

    /// A new leader has applied all that earlier ones left, and begins to deliver.
    fn open(&mut self, seat: Seat) {
        if self.replica(seat).is_ready() && !self.desk(seat).is_open {
            let ready = self.replica(seat).stream().sequences().collect();
            let desk = self.desk(seat);
            (desk.ready, desk.is_open) = (ready, true);
            self.deliver(seat);
        }
    }

    /// Brings together who wants a message and what there is.
    fn deliver(&mut self, seat: Seat) {
        let now = self.agenda.now();
        while self.desk(seat).is_open && !self.desk(seat).ready.is_empty() {
            let Some(pull) = self.desk(seat).puller(now) else {
                return;
            };
            let Some((sequence, message)) = self.next_ready(seat) else {
                return self.desk(seat).pulls.push_front(pull);
            };
            let attempt = self.desk(seat).attempt(sequence);
            self.ledger.delivered(attempt);
            let term = self.replica(seat).term();
            let over = Event::AckWait {
                seat,
                term,
                sequence,
                attempt,
            };
            self.agenda.add_after(ACK_WAIT, over);
            let delivery = Delivery {
                message,
                sequence,
                attempt,
            };
            let Pull { who, call, .. } = pull;
            self.answer_to(seat, who, call, Reply::Delivery(delivery));
        }
    }

    /// The next sequence to deliver that was not acked meanwhile.
    fn next_ready(&mut self, seat: Seat) -> Option<(u32, u32)> {
        while let Some(sequence) = self.desk(seat).ready.pop_front() {
            if let Some(message) = self.replica(seat).stream().message(sequence) {
                return Some((sequence, message));
            }
        }
        None
    }

    pub fn ack_wait_is_over(&mut self, seat: Seat, term: u32, sequence: u32, attempt: u8) {
        let replica = self.replica(seat);
        let is_meant = replica.is_leader() && replica.term() == term;
        let is_held = replica.stream().message(sequence).is_some();
        let is_latest = self.desk(seat).attempts.get(&sequence) == Some(&attempt);
        if is_meant && is_held && is_latest && !self.plan.is_broken(Break::NoRedelivery) {
            self.desk(seat).ready.push_back(sequence);
            self.deliver(seat);
        }
    }

    fn reply(&mut self, seat: Seat, request: Request, reply: Reply) {
        self.answer_to(seat, request.who, request.call, reply);
    }

    fn answer_to(&mut self, seat: Seat, who: Who, call: u32, reply: Reply) {
        let via = self.hosts[who.host as usize].server;
        let is_connected = !self.servers[usize::from(via)].is_down
            && self.network.server_reaches(self.server_of(seat), via)
            && self.network.reaches_host(via, who.host);
        if is_connected {
            for arrival in Network::to_or_from_host(&mut self.rng)
                .into_iter()
                .flatten()
            {
                self.agenda
                    .add_after(arrival, Event::Reply { who, call, reply });
            }
        }
    }

    /// The seats on a server.
    fn seats(&self, server: u8) -> Vec<Seat> {
        let seats = self
            .partitions
            .iter()
            .zip(0..)
            .flat_map(|(partition, number)| {
                let here = |(at, replica): (&u8, u8)| (*at == server).then_some(replica);
                let replicas = partition.servers.iter().zip(0..).filter_map(here);
                replicas.map(move |replica| Seat {
                    partition: number,
                    replica,
                })
            });
        seats.collect()
    }

    pub fn sync(&mut self, server: u8) {
        self.agenda.add_after(SYNC, Event::Sync { server });
        if !self.servers[usize::from(server)].is_down {
            for seat in self.seats(server) {
                self.replica(seat).sync();
            }
        }
    }

    /// SIGKILL: what it told the kernel stays, what only it knew is gone.
    pub fn kill_server(&mut self, server: u8) {
        let now = self.agenda.now();
        let state = &mut self.servers[usize::from(server)];
        (state.is_down, state.paused_until) = (true, 0);
        state.life += 1;
        for seat in self.seats(server) {
            self.replica(seat).restart(now);
            *self.desk(seat) = Desk::default();
        }
    }

    /// As a kill, and what was not on disk is gone, too.
    pub fn cut_power_of_server(&mut self, server: u8) {
        self.kill_server(server);
        for seat in self.seats(server) {
            let (begin, lost) = self.replica(seat).lose_power();
            for (index, entry) in (begin..).zip(lost) {
                let replicas = &self.partition(seat).replicas;
                let copies = replicas
                    .iter()
                    .filter(|replica| replica.has(index, entry.term))
                    .count();
                if copies <= replicas.len() / 2 {
                    self.partition(seat).has_lost = true;
                    self.ledger.erased(&entry);
                }
            }
        }
    }

    pub fn start_server(&mut self, server: u8) {
        let now = self.agenda.now();
        self.servers[usize::from(server)].is_down = false;
        for seat in self.seats(server) {
            self.replica(seat).restart(now);
        }
    }

    /// The final answer for a message, and whether a partition still holds something.
    pub fn leader(&self, partition: u16) -> Option<&Replica> {
        let replicas = &self.partitions[usize::from(partition)].replicas;
        replicas
            .iter()
            .filter(|replica| replica.is_ready())
            .max_by_key(|replica| replica.term())
    }

    pub fn final_answer(&self, partition: u16, message: u32) -> Option<Answer> {
        self.leader(partition)?.stream().answer_of(message).copied()
    }
}
