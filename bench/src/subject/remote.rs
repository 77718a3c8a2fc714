//! This project's subjects beside shared memory: a queue served at a socket, and queues over NATS
//! JetStream. The same calls as for `shm`, and the same ends.

use std::any::Any;
use std::fs;
use std::sync::Arc;

use anyhow::Result;
use ipc_nats::testing::{TestCluster, TestServer};
use ipc_queue::{ByteQueue, QueueOptions};

use super::server::{self, Servers};
use super::shm::{BytesIn, BytesOut, Filling, Settling};
use super::{Guard, Patience, Place, Subject};
use crate::own::sockets::{self, Served};
use crate::player::Player;
use crate::work::{KIB, Manner, SMALL, Work};

/// Byte messages over a server.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    at: At,
    by: By,
}

/// The server, and its storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A process that serves a queue in shared memory.
    Socket,
    /// One NATS server, in memory.
    Nats,
    /// One NATS server, in files.
    NatsOnDisk,
    /// Three NATS servers, each with all messages in files.
    NatsCluster,
}

/// The calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Each waits for its answer.
    Singles,
    /// Acks are confirmed later.
    AcksInFlight,
    /// Batches are sent, received and acked.
    Batches,
}

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    for at in [At::Socket, At::Nats] {
        for by in [By::Singles, By::AcksInFlight, By::Batches] {
            all.push(Box::new(Remote { at, by }));
        }
    }
    for at in [At::NatsOnDisk, At::NatsCluster] {
        all.push(Box::new(Remote {
            at,
            by: By::Singles,
        }));
    }
}

impl Remote {
    /// Starts the server. Returns the queue's address, too.
    fn start(self, place: &Place) -> Result<(String, Servers)> {
        let one = |query| {
            let server = TestServer::start();
            let address = server.address(place.queue) + query;
            let processes = server.process().into_iter().collect();
            (address, Servers::new(processes, server))
        };
        Ok(match self.at {
            At::Socket => {
                let path = place.file();
                let server = sockets::start(Served::Queue, &path)?;
                let processes = vec![server.process()];
                let address = format!("unix:{}", path.display());
                (address, Servers::new(processes, server))
            }
            At::Nats => one("?storage=memory"),
            At::NatsOnDisk => one(""),
            At::NatsCluster => {
                let cluster = TestCluster::start();
                let servers = cluster.servers.iter();
                let processes = servers.filter_map(TestServer::process).collect();
                (
                    cluster.address(place.queue),
                    Servers::new(processes, cluster),
                )
            }
        })
    }
}

fn open(place: &Place) -> Result<ByteQueue> {
    ipc_nats::register();
    let address = fs::read_to_string(address_file(place))?;
    Ok(ByteQueue::open(address)?)
}

fn address_file(place: &Place) -> std::path::PathBuf {
    place.folder.join(format!("{}-address", place.queue))
}

impl Subject for Remote {
    type Sender = BytesIn;
    type Receiver = BytesOut;

    fn name(&self) -> String {
        let at = match self.at {
            At::Socket => "unix",
            At::Nats => "nats",
            At::NatsOnDisk => "nats on disk",
            At::NatsCluster => "nats, three servers",
        };
        let by = match self.by {
            By::Singles => "",
            By::AcksInFlight => ", acks in flight",
            By::Batches => " batches of 32",
        };
        format!("{at}{by}")
    }

    fn note(&self) -> &'static str {
        match self.at {
            At::Socket => "this project's queue in shared memory, served by another process",
            At::Nats => "this project's queue over one NATS server, in memory",
            At::NatsOnDisk => "this project's queue over one NATS server",
            At::NatsCluster => "this project's queue over three NATS servers, three replicas",
        }
    }

    fn does(&self, work: Work) -> bool {
        let is_simple = match work {
            Work::OneWay {
                senders,
                receivers,
                bytes,
            } => bytes == SMALL && senders == receivers && senders <= 4,
            Work::RoundTrip { manner } => manner == Manner::Blocking,
            _ => false,
        };
        match (self.at, self.by) {
            (At::NatsOnDisk | At::NatsCluster, _) => is_simple,
            (_, By::Singles) => match work {
                Work::OneWay { bytes, .. } => bytes <= KIB,
                Work::Shares { .. } => true,
                _ => is_simple,
            },
            _ => is_simple && work.roles().len() == 2 && work.is_one_way(),
        }
    }

    fn does_crowds(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<String> {
        match self.at {
            At::Socket => None,
            _ => server::missing("nats-server"),
        }
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        ipc_nats::register();
        let (address, servers) = self.start(place)?;
        fs::write(address_file(place), &address)?;
        let queue = match self.at {
            // Its server has created it.
            At::Socket => None,
            _ => {
                let options = QueueOptions::new().capacity(u32::try_from(place.capacity)?);
                Some(Arc::new(options.open_bytes(address)?))
            }
        };
        let kept: Box<dyn Any> = Box::new(queue);
        Ok(Box::new(servers.beside(kept)))
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<BytesOut> {
        let settling = match self.by {
            By::Singles => Settling::Singly,
            By::AcksInFlight | By::Batches => Settling::Later,
        };
        let batch = self.batch(place);
        Ok(BytesOut::new(
            open(place)?.receiver(),
            batch,
            settling,
            patience,
        ))
    }

    fn sender(&self, place: &Place) -> Result<BytesIn> {
        let filling = match self.by {
            By::Batches => Filling::Batched,
            _ => Filling::Copied,
        };
        let bytes = self.batch(place) * place.bytes;
        Ok(BytesIn::new(open(place)?.sender(), filling, bytes))
    }

    fn batch(&self, place: &Place) -> usize {
        match self.by {
            By::Batches => super::shm::batch(place),
            _ => 1,
        }
    }
}
