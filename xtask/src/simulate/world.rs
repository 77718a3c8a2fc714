//! Everything there is, and what happens next.

use fastrand::Rng;

use super::agenda::{Agenda, MS, SECOND, Time};
use super::desk::Desk;
use super::event::{Ask, Event, Reply, Request, Seat, Step, Who};
use super::faults::{Faults, Trouble};
use super::host::{BRIDGE, Host, SLOTS, State};
use super::ledger::Ledger;
use super::mutation::Break;
use super::network::Network;
use super::plan::{DRAIN, NOTICE, Plan, REPLICAS, SYNC, TICK};
use super::replica::{Outbox, Replica};

#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub agenda: Agenda,
    pub rng: Rng,
    pub network: Network,
    pub hosts: Vec<Host>,
    pub servers: Vec<Server>,
    pub partitions: Vec<Partition>,
    pub ledger: Ledger,
    pub faults: Faults,
    /// Empty between events.
    pub outbox: Outbox,
}

#[derive(Debug, Default)]
pub struct Server {
    pub is_down: bool,
    pub life: u32,
    pub paused_until: Time,
    /// How far its wall clock was set ahead.
    pub clock_offset: Time,
}

#[derive(Debug)]
pub struct Partition {
    /// Which server has which replica: each in another rack.
    pub servers: [u8; REPLICAS],
    pub replicas: [Replica; REPLICAS],
    pub desks: [Desk; REPLICAS],
    /// Whether copies of something were lost by which a majority no longer had it.
    pub has_lost: bool,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::with_seed(plan.seed);
        let hosts = (0..plan.hosts).map(|_| Host::new(rng.u8(..plan.servers)));
        let hosts = hosts.collect();
        let partition = |number: u16| Partition {
            servers: std::array::from_fn(|replica| place(number, replica, plan.servers)),
            replicas: std::array::from_fn(|me| Replica::new(me as u8, plan.broken)),
            desks: Default::default(),
            has_lost: false,
        };
        let mut world = Self {
            agenda: Agenda::default(),
            network: Network::new(plan.hosts, plan.servers, plan.partitions),
            hosts,
            servers: (0..plan.servers).map(|_| Server::default()).collect(),
            partitions: (0..plan.partitions).map(partition).collect(),
            ledger: Ledger::default(),
            faults: Faults::default(),
            outbox: Outbox::new(),
            rng,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for host in 0..self.plan.hosts {
            self.start_processes(host);
        }
        for partition in 0..self.plan.partitions {
            for replica in 0..REPLICAS as u8 {
                let at = self.rng.u64(..TICK);
                let seat = Seat { partition, replica };
                self.agenda.add_after(at, Event::Tick { seat });
            }
        }
        for server in 0..self.plan.servers {
            let at = self.rng.u64(..SYNC);
            self.agenda.add_after(at, Event::Sync { server });
        }
        self.agenda.add_after(5 * SECOND, Event::Trouble);
        self.agenda.add_at(self.plan.calm_at(), Event::Calm);
    }

    /// Lets everything happen, until the world is drained or there is no hope.
    pub fn run(&mut self) {
        while let Some(event) = self.agenda.next() {
            match event {
                Event::Look if self.is_quiet() => return,
                Event::Look if self.agenda.now() > self.plan.calm_at() + DRAIN => return,
                Event::Look => self.agenda.add_after(SECOND, Event::Look),
                event => self.happen(event),
            }
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.frozen_until(&event) {
            return self.agenda.add_at(until, event);
        }
        match event {
            Event::Step { who, step } => {
                if self.goes_on(who) {
                    self.step(who, step);
                }
            }
            Event::Reply { who, call, reply } => {
                if self.goes_on(who) {
                    self.hear(who, call, reply);
                }
            }
            Event::Noticed { dead } => self.notice(dead),
            Event::ProcessStarts { host, slot, life } => {
                let host_is_up = self.hosts[host as usize].is_up;
                if host_is_up && self.hosts[host as usize].process(slot).life == life {
                    self.start_process(host, slot);
                }
            }
            Event::HostStarts { host } => {
                if !std::mem::replace(&mut self.hosts[host as usize].is_up, true) {
                    self.start_processes(host);
                }
            }
            Event::Request { seat, request } => self.request(seat, request),
            Event::Raft { from, to, word } => self.raft(from, to, *word),
            Event::Tick { seat } => self.tick(seat),
            Event::AckWait {
                seat,
                term,
                sequence,
                attempt,
            } => {
                self.ack_wait_is_over(seat, term, sequence, attempt);
            }
            Event::Sync { server } => self.sync(server),
            Event::ServerStarts { server, life } => {
                if self.servers[usize::from(server)].life == life {
                    self.start_server(server);
                }
            }
            Event::Trouble => self.trouble(),
            Event::Heals(heal) => self.heal(heal),
            Event::Calm => self.calm(),
            Event::Look => unreachable!("it is for whoever takes events"),
        }
    }

    /// Until when whoever an event is for does not run.
    fn frozen_until(&mut self, event: &Event) -> Option<Time> {
        let until = match *event {
            Event::Step { who, .. } | Event::Reply { who, .. } => {
                let host = &mut self.hosts[who.host as usize];
                let process = host.process(who.slot);
                let of_process = if process.life == who.life {
                    process.paused_until
                } else {
                    0
                };
                of_process.max(host.paused_until)
            }
            Event::Noticed {
                dead: Who { host, .. },
            }
            | Event::ProcessStarts { host, .. } => self.hosts[host as usize].paused_until,
            Event::Request { seat, .. }
            | Event::Raft { to: seat, .. }
            | Event::Tick { seat }
            | Event::AckWait { seat, .. } => {
                self.servers[usize::from(self.server_of(seat))].paused_until
            }
            Event::Sync { server } => self.servers[usize::from(server)].paused_until,
            _ => 0,
        };
        (until > self.agenda.now()).then_some(until)
    }

    /// Whether a process lives to take its next step.
    fn goes_on(&mut self, who: Who) -> bool {
        let host = &mut self.hosts[who.host as usize];
        let is_up = host.is_up;
        let process = host.process(who.slot);
        if !is_up || !process.is_alive || process.life != who.life {
            return false;
        }
        // Senders die in the middle of a send, see there.
        let is_doomed = process.is_doomed && !matches!(process.state, State::Sender);
        if is_doomed {
            self.kill(who);
        }
        !is_doomed
    }

    fn step(&mut self, who: Who, step: Step) {
        match (&self.hosts[who.host as usize].process(who.slot).state, step) {
            (State::Bridge(_), Step::Rung) => self.bridge_takes(who),
            (State::Bridge(_), _) => self.bridge_wakes(who),
            (State::Sender, _) => self.sender_wakes(who),
            (State::DirectSender(_), Step::Missing { call }) => {
                self.direct_sender_misses(who, call)
            }
            (State::DirectSender(_), _) => self.direct_sender_wakes(who),
            (State::Worker(_), Step::Done { call }) => self.worker_is_done(who, call),
            (State::Worker(_), Step::Missing { call }) => self.worker_misses(who, call),
            (State::Worker(_), _) => self.worker_pulls(who),
        }
    }

    fn hear(&mut self, who: Who, call: u32, reply: Reply) {
        match self.hosts[who.host as usize].process(who.slot).state {
            State::Bridge(_) => self.bridge_hears(who, call, reply),
            State::DirectSender(_) => self.direct_sender_hears(who, call, reply),
            State::Worker(_) => self.worker_hears(who, call, reply),
            State::Sender => {}
        }
    }

    fn start_processes(&mut self, host: u32) {
        for slot in 0..SLOTS as u8 {
            self.start_process(host, slot);
        }
    }

    fn start_process(&mut self, host: u32, slot: u8) {
        let place = &mut self.hosts[host as usize];
        place.start(slot);
        let who = Who::of(host, slot, place.process(slot).life);
        let soon = self.rng.u64(..500 * MS);
        self.agenda.add_after(
            soon,
            Event::Step {
                who,
                step: Step::Wake,
            },
        );
    }

    /// SIGKILL. The others on the host notice, and somebody starts it again.
    pub fn kill(&mut self, who: Who) {
        let host = &mut self.hosts[who.host as usize];
        host.end(who.slot);
        let life = host.process(who.slot).life;
        self.agenda.add_after(NOTICE, Event::Noticed { dead: who });
        let pause = self.rng.u64(100 * MS..2 * SECOND);
        let starts = Event::ProcessStarts {
            host: who.host,
            slot: who.slot,
            life,
        };
        self.agenda.add_after(pause, starts);
    }

    fn notice(&mut self, dead: Who) {
        if self.plan.is_broken(Break::NoRecovery) {
            return;
        }
        let host = &mut self.hosts[dead.host as usize];
        host.queue.recover(dead);
        let bridge = host.process(BRIDGE);
        if bridge.is_alive {
            let who = Who::of(dead.host, BRIDGE, bridge.life);
            self.agenda.add_after(
                0,
                Event::Step {
                    who,
                    step: Step::Rung,
                },
            );
        }
    }

    /// Asks whoever leads a partition, through the server that the host is connected to. The number of the question; whether
    /// anybody hears it is another matter.
    pub fn ask(&mut self, who: Who, partition: u16, ask: Ask) -> u32 {
        let host = &mut self.hosts[who.host as usize];
        let call = host.process(who.slot).call();
        let via = host.server;
        let is_connected =
            !self.servers[usize::from(via)].is_down && self.network.host_reaches(who.host, via);
        if !is_connected {
            return call;
        }
        let request = Request { who, call, ask };
        for replica in 0..REPLICAS as u8 {
            let seat = Seat { partition, replica };
            let leads =
                self.partitions[usize::from(partition)].replicas[usize::from(replica)].is_leader();
            if leads && self.network.server_reaches(via, self.server_of(seat)) {
                for arrival in Network::to_or_from_host(&mut self.rng)
                    .into_iter()
                    .flatten()
                {
                    self.agenda
                        .add_after(arrival, Event::Request { seat, request });
                }
            }
        }
        call
    }

    /// Takes another server, as a client does that hears nothing any more.
    pub fn reconnect(&mut self, host: u32) {
        self.hosts[host as usize].server = self.rng.u8(..self.plan.servers);
    }

    pub fn server_of(&self, seat: Seat) -> u8 {
        self.partitions[usize::from(seat.partition)].servers[usize::from(seat.replica)]
    }

    /// Whether everything that was accepted is settled.
    pub fn is_quiet(&self) -> bool {
        let is_drained = |partition: &Partition| {
            let mut leaders = partition
                .replicas
                .iter()
                .filter(|replica| replica.is_ready());
            leaders.any(|leader| leader.is_idle() && leader.stream().len() == 0)
        };
        self.hosts.iter().all(Host::is_quiet) && self.partitions.iter().all(is_drained)
    }

    /// Trouble ends, and so do new messages.
    fn calm(&mut self) {
        self.end_all_trouble();
        self.agenda.add_after(SECOND, Event::Look);
    }

    fn trouble(&mut self) {
        if self.agenda.now() >= self.plan.calm_at() {
            return;
        }
        let (trouble, next) = Trouble::draw(&mut self.rng, &self.plan);
        self.agenda.add_after(next, Event::Trouble);
        self.make(trouble);
    }
}

/// Servers are in racks in turn, so neighbours are in different ones.
fn place(partition: u16, replica: usize, servers: u8) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than there are servers"
    )]
    let server = ((usize::from(partition) + replica) % usize::from(servers)) as u8;
    server
}
