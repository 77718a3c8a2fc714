//! Trouble: which there is, how often, and how it ends.
//!
//! Rates are for one host, server or rack and a second, many times those of real machines: a minute here stands for years.

use fastrand::Rng;

use super::agenda::{MS, SECOND, Time};
use super::event::{Event, Who};
use super::host::SLOTS;
use super::ledger::Excuse;
use super::network::Cut;
use super::plan::{Plan, RACKS};
use super::world::World;

/// What there was, and what has not ended.
#[derive(Debug, Default)]
pub struct Faults {
    pub counts: [u64; Trouble::ALL.len()],
    cuts: Vec<(u64, Cut)>,
    cut_number: u64,
}

/// What ends by itself.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    Cut(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    ProcessKilled,
    ProcessPaused,
    HostPaused,
    HostRebooted,
    HostCutOff,
    HostCutOneWay,
    HostClockJump,
    ServerKilled,
    ServerPaused,
    ServerPowerCut,
    ServerCutOff,
    ServerCutOneWay,
    ServerClockJump,
    RackPowerCut,
}

/// What a rate is for.
#[derive(Clone, Copy)]
enum Each {
    Host,
    Server,
    Rack,
}

impl Trouble {
    pub const ALL: [Self; 14] = [
        Self::ProcessKilled,
        Self::ProcessPaused,
        Self::HostPaused,
        Self::HostRebooted,
        Self::HostCutOff,
        Self::HostCutOneWay,
        Self::HostClockJump,
        Self::ServerKilled,
        Self::ServerPaused,
        Self::ServerPowerCut,
        Self::ServerCutOff,
        Self::ServerCutOneWay,
        Self::ServerClockJump,
        Self::RackPowerCut,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessKilled => "process killed",
            Self::ProcessPaused => "process paused",
            Self::HostPaused => "host paused",
            Self::HostRebooted => "host rebooted",
            Self::HostCutOff => "host cut off",
            Self::HostCutOneWay => "host cut off, one way",
            Self::HostClockJump => "host's clock jumped",
            Self::ServerKilled => "server killed",
            Self::ServerPaused => "server paused",
            Self::ServerPowerCut => "server's power cut",
            Self::ServerCutOff => "server cut off",
            Self::ServerCutOneWay => "server cut off, one way",
            Self::ServerClockJump => "server's clock jumped",
            Self::RackPowerCut => "rack's power cut",
        }
    }

    fn rate(self) -> (Each, f64) {
        match self {
            Self::ProcessKilled => (Each::Host, 0.05),
            Self::ProcessPaused => (Each::Host, 0.02),
            Self::HostPaused => (Each::Host, 0.004),
            Self::HostRebooted => (Each::Host, 0.001),
            Self::HostCutOff | Self::HostCutOneWay => (Each::Host, 0.004),
            Self::HostClockJump => (Each::Host, 0.004),
            Self::ServerKilled | Self::ServerPaused => (Each::Server, 0.02),
            Self::ServerPowerCut => (Each::Server, 0.004),
            Self::ServerCutOff | Self::ServerCutOneWay => (Each::Server, 0.012),
            Self::ServerClockJump => (Each::Server, 0.01),
            Self::RackPowerCut => (Each::Rack, 0.004),
        }
    }

    fn rate_of_all(self, plan: &Plan) -> f64 {
        let (each, rate) = self.rate();
        rate * match each {
            Each::Host => f64::from(plan.hosts),
            Each::Server => f64::from(plan.servers),
            Each::Rack => f64::from(RACKS),
        }
    }

    /// The next one, and after which time comes the one after it.
    pub fn draw(rng: &mut Rng, plan: &Plan) -> (Self, Time) {
        let total: f64 = Self::ALL
            .iter()
            .map(|trouble| trouble.rate_of_all(plan))
            .sum();
        let mut chance = rng.f64() * total;
        let drawn = Self::ALL.into_iter().find(|trouble| {
            chance -= trouble.rate_of_all(plan);
            chance < 0.0
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time"
        )]
        let next = (-rng.f64().max(1e-9).ln() / total * SECOND as f64) as Time;
        (drawn.unwrap_or(Self::ProcessKilled), next)
    }
}

impl World {
    pub fn make(&mut self, trouble: Trouble) {
        self.faults.counts[trouble as usize] += 1;
        let host = self.rng.u32(..self.plan.hosts);
        let server = self.rng.u8(..self.plan.servers);
        match trouble {
            Trouble::ProcessKilled => self.doom_or_kill(host),
            Trouble::ProcessPaused => {
                let until = self.until(500 * MS..15 * SECOND);
                let slot = self.rng.u8(..SLOTS as u8);
                self.hosts[host as usize].process(slot).paused_until = until;
            }
            Trouble::HostPaused => {
                self.hosts[host as usize].paused_until = self.until(500 * MS..15 * SECOND);
            }
            Trouble::HostRebooted => self.reboot(host),
            Trouble::HostCutOff => self.cut_all(&[Cut::FromHost(host), Cut::ToHost(host)]),
            Trouble::HostCutOneWay => {
                let cut = if self.rng.bool() {
                    Cut::FromHost(host)
                } else {
                    Cut::ToHost(host)
                };
                self.cut_all(&[cut]);
            }
            Trouble::HostClockJump => {
                self.hosts[host as usize].clock_offset = self.rng.i64(-HOUR..HOUR);
            }
            Trouble::ServerKilled => {
                self.kill_server(server);
                self.server_starts_later(server);
            }
            Trouble::ServerPaused => {
                self.servers[usize::from(server)].paused_until = self.until(500 * MS..15 * SECOND);
            }
            Trouble::ServerPowerCut => self.cut_power(server),
            Trouble::ServerCutOff => {
                self.cut_all(&[Cut::FromServers(server), Cut::ToServers(server)])
            }
            Trouble::ServerCutOneWay => {
                let cuts = [
                    Cut::FromServers(server),
                    Cut::ToServers(server),
                    Cut::FromHosts(server),
                    Cut::ToHosts(server),
                ];
                let cut = cuts[self.rng.usize(..cuts.len())];
                self.cut_all(&[cut]);
            }
            Trouble::ServerClockJump => {
                let ahead = self.rng.u64(..60 * SECOND);
                self.servers[usize::from(server)].clock_offset = ahead;
            }
            Trouble::RackPowerCut => {
                let rack = server % RACKS;
                for server in (rack..self.plan.servers).step_by(RACKS.into()) {
                    self.cut_power(server);
                }
                for host in (rack.into()..self.plan.hosts).step_by(10 * usize::from(RACKS)) {
                    self.reboot(host);
                }
            }
        }
    }

    fn until(&mut self, time: std::ops::Range<Time>) -> Time {
        self.agenda.now() + self.rng.u64(time)
    }

    /// Half of those who are killed die just when they would have gone on: a sender in the middle of a send, a bridge when the
    /// confirmation comes, a worker when its answer was stored.
    fn doom_or_kill(&mut self, host: u32) {
        let slot = self.rng.u8(..SLOTS as u8);
        let is_doomed = self.rng.bool();
        let process = self.hosts[host as usize].process(slot);
        if is_doomed {
            process.is_doomed = true;
        } else if process.is_alive {
            let who = Who::of(host, slot, process.life);
            self.kill(who);
        }
    }

    fn reboot(&mut self, host: u32) {
        let place = &mut self.hosts[host as usize];
        if !place.is_up {
            return;
        }
        place.is_up = false;
        place.paused_until = 0;
        for slot in 0..SLOTS as u8 {
            place.end(slot);
        }
        let gone = std::mem::replace(&mut place.queue, super::local_queue::LocalQueue::new());
        for message in gone.messages() {
            self.ledger.excuse(message, Excuse::Reboot);
        }
        let at = self.until(5 * SECOND..15 * SECOND);
        self.agenda.add_at(at, Event::HostStarts { host });
    }

    fn cut_power(&mut self, server: u8) {
        self.cut_power_of_server(server);
        self.server_starts_later(server);
    }

    fn server_starts_later(&mut self, server: u8) {
        let at = self.until(SECOND..15 * SECOND);
        let life = self.servers[usize::from(server)].life;
        self.agenda.add_at(at, Event::ServerStarts { server, life });
    }

    fn cut_all(&mut self, cuts: &[Cut]) {
        let at = self.until(500 * MS..30 * SECOND);
        for cut in cuts {
            self.network.cut(*cut);
            self.faults.cut_number += 1;
            let number = self.faults.cut_number;
            self.faults.cuts.push((number, *cut));
            self.agenda.add_at(at, Event::Heals(Heal::Cut(number)));
        }
    }

    pub fn heal(&mut self, Heal::Cut(number): Heal) {
        let cuts = &mut self.faults.cuts;
        if let Some(index) = cuts.iter().position(|(other, _)| *other == number) {
            let (_, cut) = cuts.swap_remove(index);
            self.network.heal(cut);
        }
    }

    /// Cuts heal, servers start, whoever is frozen goes on when its time comes.
    pub fn end_all_trouble(&mut self) {
        for (_, cut) in std::mem::take(&mut self.faults.cuts) {
            self.network.heal(cut);
        }
        for server in 0..self.plan.servers {
            if self.servers[usize::from(server)].is_down {
                self.start_server(server);
            }
        }
    }
}

const HOUR: i64 = 3_600 * SECOND.cast_signed();
