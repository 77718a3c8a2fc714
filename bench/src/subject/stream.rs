//! References: byte streams of the system, a pipe and a Unix socket. All messages have the same
//! size, so there are no frames.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::work::{SMALL, Work};

#[derive(Debug)]
pub struct Pipe;

#[derive(Debug)]
pub struct Socket;

/// The writing end.
#[derive(Debug)]
pub struct Writing<S> {
    stream: S,
    buffer: Vec<u8>,
}

/// The reading end.
#[derive(Debug)]
pub struct Reading<S> {
    stream: S,
    buffer: Vec<u8>,
}

/// The default limit for unprivileged processes.
const PIPE_BYTES: i32 = 1 << 20;

impl Subject for Pipe {
    type Sender = Writing<File>;
    type Receiver = Reading<File>;

    fn name(&self) -> String {
        "pipe".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; holds 1 MiB"
    }

    /// Small writes are atomic, so several processes may share the pipe.
    fn does(&self, work: Work) -> bool {
        match work {
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            }
            | Work::RoundTrip { .. } => true,
            Work::OneWay { bytes, .. } => bytes == SMALL,
            _ => false,
        }
    }

    fn can_be_opened_again(&self) -> bool {
        true
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        mkfifo(&place.file(), Mode::S_IRWXU)?;
        Ok(Box::new(()))
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver> {
        let pipe = open_pipe(place)?;
        if patience == Patience::Spin {
            fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Reading::over(pipe, place))
    }

    fn sender(&self, place: &Place) -> Result<Self::Sender> {
        Ok(Writing::over(open_pipe(place)?, place))
    }
}

/// Opened for both directions, so that opening does not block.
fn open_pipe(place: &Place) -> Result<File> {
    let pipe = OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.file())?;
    fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
    Ok(pipe)
}

impl Subject for Socket {
    type Sender = Writing<UnixStream>;
    type Receiver = Reading<Incoming>;

    fn name(&self) -> String {
        "unix socket".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; one sender and one receiver only; a system call for each message and side"
    }

    fn does(&self, work: Work) -> bool {
        matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            } | Work::RoundTrip { .. }
        )
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Self::Receiver> {
        let listener = UnixListener::bind(place.file())?;
        Ok(Reading::over(
            Incoming::Listening(listener, patience),
            place,
        ))
    }

    fn sender(&self, place: &Place) -> Result<Self::Sender> {
        Ok(Writing::over(UnixStream::connect(place.file())?, place))
    }
}

/// A socket that is accepted at the first read.
#[derive(Debug)]
pub enum Incoming {
    Listening(UnixListener, Patience),
    Connected(UnixStream),
}

impl Read for Incoming {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Connected(stream) => stream.read(buffer),
            Self::Listening(listener, patience) => {
                let (mut stream, _) = listener.accept()?;
                stream.set_nonblocking(*patience == Patience::Spin)?;
                let read = stream.read(buffer);
                *self = Self::Connected(stream);
                read
            }
        }
    }
}

impl<S> Writing<S> {
    pub fn over(stream: S, place: &Place) -> Self {
        let buffer = vec![0; place.bytes];
        Self { stream, buffer }
    }
}

impl<S> Reading<S> {
    pub fn over(stream: S, place: &Place) -> Self {
        let buffer = vec![0; place.bytes];
        Self { stream, buffer }
    }
}

impl<S: Write> Sender for Writing<S> {
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer);
            self.stream.write_all(&self.buffer)?;
        }
        Ok(())
    }
}

impl<S: Read> Receiver for Reading<S> {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let mut filled = 0;
        while filled < self.buffer.len() {
            match self.stream.read(&mut self.buffer[filled..]) {
                Ok(0) => bail!("the other end is closed"),
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("reading"),
            }
        }
        read(&self.buffer);
        Ok(())
    }
}
