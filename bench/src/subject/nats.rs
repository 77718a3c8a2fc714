//! Broker: a NATS JetStream work queue in memory, on loopback, with a plain client. Each publish is
//! confirmed, and each message is acked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail, ensure};

use super::server::{self, Server, Servers};
use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::player::Player;
use crate::work::{Manner, SMALL, Work};

#[derive(Clone, Copy, Debug)]
pub struct Nats(By);

/// The requests of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// One message after the other; acks are not confirmed.
    Singles,
    /// The same, with a wait for each ack's confirmation.
    Confirmed,
    /// 32 publishes, 32 messages, and all acks' confirmations are in flight together.
    InFlight,
}

/// Either end.
#[derive(Debug)]
pub struct End {
    by: By,
    stream: BufReader<TcpStream>,
    inbox: String,
    buffer: Vec<u8>,
    request: Vec<u8>,
    /// The number of messages asked for that have not arrived.
    due: usize,
}

/// A received message.
struct Arrived {
    reply_to: String,
}

const SERVER: &str = "nats-server";
const BATCH: usize = 32;

pub fn list(all: &mut Vec<Box<dyn Player>>) {
    for by in [By::Singles, By::Confirmed, By::InFlight] {
        all.push(Box::new(Nats(by)));
    }
}

impl Subject for Nats {
    type Sender = End;
    type Receiver = End;

    fn name(&self) -> String {
        let how = match self.0 {
            By::Singles => "",
            By::Confirmed => ", acks confirmed",
            By::InFlight => ", 32 in flight",
        };
        format!("nats jetstream{how}")
    }

    fn note(&self) -> &'static str {
        match self.0 {
            By::Singles => "a server; messages are confirmed and acked; in memory",
            _ => "a server; messages and acks are confirmed; in memory",
        }
    }

    fn does(&self, work: Work) -> bool {
        let spinning = Work::RoundTrip {
            manner: Manner::Spinning,
        };
        match self.0 {
            By::Singles => work.has_sides() && work != spinning && work.bytes() <= 16 * SMALL,
            _ => work.is_one_way() && work.bytes() == SMALL,
        }
    }

    fn does_crowds(&self) -> bool {
        self.0 == By::Confirmed
    }

    fn missing(&self) -> Option<String> {
        server::missing(SERVER)
    }

    fn can_be_opened_again(&self) -> bool {
        self.0 == By::Singles
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        let args = |port: u16, folder: &str| {
            let port = port.to_string();
            let args = ["-js", "-a", "127.0.0.1", "-p", &port, "-sd", folder];
            args.map(str::to_owned).to_vec()
        };
        let server = Server::start(place, SERVER, args)?;
        let mut end = self.sender(place)?;
        end.ask(
            "$JS.API.STREAM.CREATE.S",
            br#"{"name":"S","subjects":["q"],"retention":"workqueue","storage":"memory"}"#,
        )?;
        end.ask(
            "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
            br#"{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit","ack_wait":250000000}}"#,
        )?;
        Ok(Box::new(Servers::new(vec![server.process()], server)))
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<End> {
        self.sender(place)
    }

    fn batch(&self, _: &Place) -> usize {
        match self.0 {
            By::InFlight => BATCH,
            _ => 1,
        }
    }

    fn sender(&self, place: &Place) -> Result<End> {
        let mut end = End {
            by: self.0,
            due: 0,
            stream: BufReader::new(server::connect(place)?),
            inbox: format!("_INBOX.{}.{}", std::process::id(), clock_name()),
            buffer: Vec::new(),
            request: vec![0; place.bytes],
        };
        let hello = format!("CONNECT {{\"verbose\":false}}\r\nSUB {} 1\r\n", end.inbox);
        end.stream.get_mut().write_all(hello.as_bytes())?;
        Ok(end)
    }
}

/// Returns a number that differs for every end of a process.
fn clock_name() -> u64 {
    crate::clock::now_ns()
}

impl End {
    fn publish(&mut self, subject: &str, reply: bool, payload: &[u8]) -> Result<()> {
        let reply = if reply { &self.inbox } else { "" };
        let mut packet = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        packet.extend_from_slice(payload);
        packet.extend_from_slice(b"\r\n");
        Ok(self.stream.get_mut().write_all(&packet)?)
    }

    /// Receives the next message, which stays in the buffer.
    fn next(&mut self) -> Result<Arrived> {
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "the server is gone");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("MSG") => return self.payload(words.collect()),
                // A status without a useful payload: no message yet, or a time-out.
                Some("HMSG") => bail!("the server said {line:?}"),
                Some("PING") => self.stream.get_mut().write_all(b"PONG\r\n")?,
                Some("-ERR") => bail!("the server said {line:?}"),
                _ => {}
            }
        }
    }

    fn payload(&mut self, words: Vec<&str>) -> Result<Arrived> {
        let len: usize = words.last().context("a length")?.parse()?;
        self.buffer.resize(len + 2, 0);
        self.stream.read_exact(&mut self.buffer)?;
        self.buffer.truncate(len);
        let reply_to = if words.len() == 4 { words[2] } else { "" };
        Ok(Arrived {
            reply_to: reply_to.to_owned(),
        })
    }

    fn ask(&mut self, subject: &str, question: &[u8]) -> Result<()> {
        self.publish(subject, true, question)?;
        self.next()?;
        let answer = String::from_utf8_lossy(&self.buffer);
        ensure!(!answer.contains("\"error\""), "the server said {answer}");
        Ok(())
    }
}

impl Sender for End {
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            let mut payload = std::mem::take(&mut self.request);
            fill(&mut payload);
            self.publish("q", true, &payload)?;
            self.request = payload;
            if self.by != By::InFlight {
                self.next()?;
            }
        }
        if self.by == By::InFlight {
            for _ in 0..count {
                self.next()?;
            }
        }
        Ok(())
    }
}

impl Receiver for End {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.S.C";
        if self.by != By::InFlight {
            self.publish(NEXT, true, b"1")?;
            let arrived = self.next()?;
            read(&self.buffer);
            let confirmed = self.by == By::Confirmed;
            self.publish(&arrived.reply_to, confirmed, b"+ACK")?;
            return if confirmed {
                self.next().map(drop)
            } else {
                Ok(())
            };
        }
        if self.due == 0 {
            self.publish(NEXT, true, BATCH.to_string().as_bytes())?;
            self.due = BATCH;
        }
        let mut arrived = self.next()?;
        // A confirmation of an ack has no place for an answer.
        while arrived.reply_to.is_empty() {
            arrived = self.next()?;
        }
        self.due -= 1;
        read(&self.buffer);
        self.publish(&arrived.reply_to, true, b"+ACK")
    }
}
