//! Who can say something to whom, and how long that takes.
//!
//! A connection that is made anew loses what was under way or repeats it; for that, a few words are dropped, doubled or late, also
//! when nothing is cut. Cuts are counted, for they may overlap, and have a direction.

use fastrand::Rng;

use super::agenda::{MS, SECOND, Time};
use super::plan::REPLICAS;

#[derive(Debug)]
pub struct Network {
    servers: usize,
    /// By host: from it, and to it.
    hosts: Vec<[u8; 2]>,
    /// By server: from all hosts, and to them.
    fronts: Vec<[u8; 2]>,
    /// From one server to another.
    pairs: Vec<u8>,
    /// When the latest word arrives at a replica from another of its partition: connections keep their order.
    latest: Vec<Time>,
}

/// What can be cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    FromHost(u32),
    ToHost(u32),
    /// A server does not hear hosts.
    FromHosts(u8),
    /// Hosts do not hear a server.
    ToHosts(u8),
    /// A server does not hear the other servers.
    FromServers(u8),
    /// The other servers do not hear it.
    ToServers(u8),
}

/// What becomes of a word: how many arrive, each after how long.
pub type Arrivals = [Option<Time>; 2];

impl Network {
    pub fn new(hosts: u32, servers: u8, partitions: u16) -> Self {
        let servers = usize::from(servers);
        Self {
            servers,
            hosts: vec![[0; 2]; hosts as usize],
            fronts: vec![[0; 2]; servers],
            pairs: vec![0; servers * servers],
            latest: vec![0; usize::from(partitions) * REPLICAS * REPLICAS],
        }
    }

    pub fn cut(&mut self, cut: Cut) {
        self.change(cut, |count| *count += 1);
    }

    pub fn heal(&mut self, cut: Cut) {
        self.change(cut, |count| *count -= 1);
    }

    fn change(&mut self, cut: Cut, mut change: impl FnMut(&mut u8)) {
        let others = 0..self.servers;
        match cut {
            Cut::FromHost(host) => change(&mut self.hosts[host as usize][0]),
            Cut::ToHost(host) => change(&mut self.hosts[host as usize][1]),
            Cut::FromHosts(server) => change(&mut self.fronts[usize::from(server)][0]),
            Cut::ToHosts(server) => change(&mut self.fronts[usize::from(server)][1]),
            Cut::FromServers(server) => {
                let row = usize::from(server);
                others.for_each(|other| change(&mut self.pairs[other * self.servers + row]));
            }
            Cut::ToServers(server) => {
                let row = usize::from(server) * self.servers;
                others.for_each(|other| change(&mut self.pairs[row + other]));
            }
        }
    }

    pub fn host_reaches(&self, host: u32, server: u8) -> bool {
        self.hosts[host as usize][0] == 0 && self.fronts[usize::from(server)][0] == 0
    }

    pub fn reaches_host(&self, server: u8, host: u32) -> bool {
        self.hosts[host as usize][1] == 0 && self.fronts[usize::from(server)][1] == 0
    }

    pub fn server_reaches(&self, server: u8, other: u8) -> bool {
        server == other || self.pairs[usize::from(server) * self.servers + usize::from(other)] == 0
    }

    /// Between a host and a partition's leader, through the server that the host is connected to.
    pub fn to_or_from_host(rng: &mut Rng) -> Arrivals {
        Self::arrivals(rng, 300..900)
    }

    /// Between servers.
    fn between_servers(rng: &mut Rng) -> Arrivals {
        Self::arrivals(rng, 100..300)
    }

    /// From one replica to another: when. Of a connection that lasts, in the order in which it was said.
    pub fn between_replicas(&mut self, link: usize, now: Time, rng: &mut Rng) -> Arrivals {
        let arrivals = Self::between_servers(rng);
        let is_steady = arrivals[1].is_none() && rng.u32(..1000) != 0;
        let latest = &mut self.latest[link];
        arrivals.map(|arrival| {
            let at = now + arrival?;
            if !is_steady {
                return Some(at);
            }
            *latest = at.max(*latest);
            Some(*latest)
        })
    }

    fn arrivals(rng: &mut Rng, usual: std::ops::Range<Time>) -> Arrivals {
        let mut one = || match rng.u32(..1000) {
            0 => rng.u64(50 * MS..2 * SECOND),
            1..10 => rng.u64(MS..50 * MS),
            _ => rng.u64(usual.clone()),
        };
        let (first, second) = (one(), one());
        match rng.u32(..1000) {
            0 => [None, None],
            1 => [Some(first), Some(second)],
            _ => [Some(first), None],
        }
    }
}

/// Which connection between replicas of a partition.
pub fn link(partition: u16, from: u8, to: u8) -> usize {
    (usize::from(partition) * REPLICAS + usize::from(from)) * REPLICAS + usize::from(to)
}
