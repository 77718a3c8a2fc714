//! Broker: a Redis list on loopback, pushed and popped one by one, each command answered before the
//! next.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};

use super::server::{self, Server};
use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::work::{Manner, Work};

#[derive(Debug)]
pub struct Redis;

/// Either end.
#[derive(Debug)]
pub struct End {
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

const SERVER: &str = "redis-server";

impl Subject for Redis {
    type Sender = End;
    type Receiver = End;

    fn name(&self) -> String {
        "redis list".to_owned()
    }

    fn note(&self) -> &'static str {
        "a server; no ack; no limit to what it holds; not written to disk"
    }

    fn does(&self, work: Work) -> bool {
        let spinning = Work::RoundTrip {
            manner: Manner::Spinning,
        };
        work.has_sides() && work != spinning
    }

    fn missing(&self) -> Option<String> {
        server::missing(SERVER)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        let args = |port: u16, folder: &str| {
            let port = port.to_string();
            let args = [
                "--bind",
                "127.0.0.1",
                "--port",
                &port,
                "--dir",
                folder,
                "--save",
                "",
            ];
            args.map(str::to_owned).to_vec()
        };
        Ok(Box::new(Server::start(place, SERVER, args)?))
    }

    fn can_be_opened_again(&self) -> bool {
        true
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<End> {
        self.sender(place)
    }

    fn sender(&self, place: &Place) -> Result<End> {
        Ok(End {
            stream: BufReader::with_capacity(1 << 16, server::connect(place)?),
            buffer: vec![0; place.bytes],
            request: Vec::new(),
        })
    }
}

impl End {
    /// Reads a line that begins with `kind`, and returns its number.
    fn number(&mut self, kind: char) -> Result<usize> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let number = line.trim().strip_prefix(kind);
        let number = number.with_context(|| format!("the server said {line:?}"))?;
        Ok(number.parse()?)
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        let mut skipped = [0; 32];
        Ok(self.stream.read_exact(&mut skipped[..bytes])?)
    }
}

impl Sender for End {
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer);
            self.request.clear();
            write!(self.request, "*3\r\n$5\r\nLPUSH\r\n$1\r\nq\r\n${len}\r\n")?;
            self.request.extend_from_slice(&self.buffer);
            self.request.extend_from_slice(b"\r\n");
            self.stream.get_mut().write_all(&self.request)?;
            self.number(':')?;
        }
        Ok(())
    }
}

impl Receiver for End {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let request = b"*3\r\n$5\r\nBRPOP\r\n$1\r\nq\r\n$1\r\n0\r\n";
        self.stream.get_mut().write_all(request)?;
        ensure!(self.number('*')? == 2, "a key and a value");
        let key = self.number('$')?;
        self.skip(key + 2)?;
        let len = self.number('$')?;
        self.buffer.resize(len, 0);
        self.stream.read_exact(&mut self.buffer)?;
        self.skip(2)?;
        read(&self.buffer);
        Ok(())
    }
}
