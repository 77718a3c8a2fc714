//! Reference: the system's POSIX message queue.

use std::ffi::CString;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;

use super::waiting::poll;
use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::work::Work;

#[derive(Debug)]
pub struct MessageQueue;

/// Either end.
#[derive(Debug)]
pub struct End {
    queue: MqdT,
    buffer: Vec<u8>,
}

/// Removes the queue, which is not in the repetition's folder.
struct Unlinked(CString);

/// The limits for unprivileged processes.
const DEFAULT_CAPACITY: usize = 10;
const LARGEST: usize = 8192;

impl Subject for MessageQueue {
    type Sender = End;
    type Receiver = End;

    fn name(&self) -> String {
        "posix mq".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; without privileges it holds 10 messages of at most 8 KiB"
    }

    fn does(&self, work: Work) -> bool {
        work.has_sides() && work.bytes() <= LARGEST
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        // Refused to unprivileged processes, which keep the default.
        let _ = setrlimit(Resource::RLIMIT_MSGQUEUE, 16 << 20, 16 << 20);
        let name = name(place)?;
        let created = create(&name, place.capacity, place.bytes)
            .or_else(|_| create(&name, DEFAULT_CAPACITY, place.bytes));
        created.context("creating a message queue")?;
        Ok(Box::new(Unlinked(name)))
    }

    fn can_be_opened_again(&self) -> bool {
        true
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<End> {
        let mut flags = MQ_OFlag::O_RDONLY;
        if patience == Patience::Spin {
            flags |= MQ_OFlag::O_NONBLOCK;
        }
        open(place, flags)
    }

    fn sender(&self, place: &Place) -> Result<End> {
        open(place, MQ_OFlag::O_WRONLY)
    }
}

fn name(place: &Place) -> Result<CString> {
    Ok(CString::new(format!("/{}", place.global_name()))?)
}

fn create(name: &CString, capacity: usize, bytes: usize) -> nix::Result<MqdT> {
    let long = |number: usize| libc::c_long::try_from(number).unwrap_or(libc::c_long::MAX);
    let attributes = MqAttr::new(0, long(capacity), long(bytes), 0);
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
    mq_open(&name[..], flags, Mode::S_IRWXU, Some(&attributes))
}

fn open(place: &Place, flags: MQ_OFlag) -> Result<End> {
    let name = name(place)?;
    Ok(End {
        queue: mq_open(&name[..], flags, Mode::empty(), None)?,
        buffer: vec![0; place.bytes],
    })
}

impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = mq_unlink(&self.0[..]);
    }
}

impl Sender for End {
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer);
            mq_send(&self.queue, &self.buffer, 0)?;
        }
        Ok(())
    }
}

impl Receiver for End {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let len = poll(|| {
            let mut priority = 0;
            match mq_receive(&self.queue, &mut self.buffer, &mut priority) {
                Ok(len) => Ok(Some(len)),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        read(&self.buffer[..len]);
        Ok(())
    }
}
