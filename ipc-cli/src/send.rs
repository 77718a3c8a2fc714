//! `send`: sends one message, or one per line.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipc_proto::MessageId;
use ipc_queue::transport::Wait;
use ipc_queue::{
    ByteQueue, ByteSender, Loan, QueueOptions, SendFailure, SendOptions, SendTimeoutError,
};
use serde_json::json;

use crate::address;
use crate::cli::{self, Urgency};
use crate::exit::Exit;
use crate::headers;
use crate::object::{Given, Object};
use crate::payload::Payloads;
use crate::show::Show;

pub fn send(what: &cli::Send, show: &Show) -> Result<()> {
    let options = options(what)?;
    if what.lines {
        let queue = open(what)?;
        return Outgoing::new(what, &queue, &options)?.send_lines(show);
    }
    if show.is_json() && what.payload.is_none() {
        let queue = open(what)?;
        return Outgoing::new(what, &queue, &options)?.send_objects(show);
    }
    let payload = match &what.payload {
        Some(payload) => payload.as_bytes().to_owned(),
        None => standard_input(what)?,
    };
    let queue = open(what)?;
    Outgoing::new(what, &queue, &options)?.send(&payload, show)
}

/// Sends each line of standard input, a JSON object.
pub fn import(queue: &str, create: bool, timeout: Option<Duration>, show: &Show) -> Result<()> {
    let what = cli::Send {
        queue: queue.to_owned(),
        payload: None,
        lines: false,
        create,
        raw: false,
        priority: Urgency::Normal,
        delay: Duration::ZERO,
        expires_in: None,
        key: None,
        headers: Vec::new(),
        timeout,
    };
    let (opened, options) = (open(&what)?, SendOptions::new());
    Outgoing::new(&what, &opened, &options)?.send_objects(show)
}

fn options(what: &cli::Send) -> Result<SendOptions> {
    let mut options = SendOptions::new()
        .priority(what.priority.into())
        .delay(what.delay);
    if let Some(time) = what.expires_in {
        options = options.expires_in(time);
    }
    if let Some(key) = &what.key {
        options = options.key(key.as_bytes());
    }
    // Checked before a queue is created for it.
    options.check_values()?;
    for header in &what.headers {
        let (name, value) = headers::parse(header)?;
        options = options.header(&name, value).map_err(headers::refused)?;
    }
    Ok(options)
}

fn standard_input(what: &cli::Send) -> Result<Vec<u8>> {
    let mut payload = Vec::new();
    let read = io::stdin().read_to_end(&mut payload);
    read.context("reading standard input")?;
    if payload.is_empty() {
        let queue = &what.queue;
        return Err(Exit::Usage.error(format!(
            "standard input is empty, nothing was sent: ipc send {queue} '' sends an empty message"
        )));
    }
    Ok(payload)
}

fn open(what: &cli::Send) -> Result<ByteQueue> {
    if !what.create {
        return address::open(&what.queue);
    }
    let mut options = QueueOptions::new();
    if what.priority != Urgency::Normal {
        options = options.priorities(true);
    }
    if what.key.is_some() {
        options = options.dedup_window(address::DEDUP_WINDOW);
    }
    address::open_or_create(&what.queue, &options)
}

struct Outgoing<'q> {
    what: &'q cli::Send,
    queue: &'q ByteQueue,
    sender: ByteSender,
    options: &'q SendOptions,
    /// `None`: the bytes are sent unchanged.
    payloads: Option<Payloads>,
}

impl<'q> Outgoing<'q> {
    fn new(what: &'q cli::Send, queue: &'q ByteQueue, options: &'q SendOptions) -> Result<Self> {
        Ok(Self {
            what,
            queue,
            sender: queue.sender(),
            options,
            payloads: (!what.raw).then(|| Payloads::of(queue.transport().payload())),
        })
    }

    fn send(&self, payload: &[u8], show: &Show) -> Result<()> {
        let payload = self.encode(payload)?;
        self.send_encoded(&payload, self.options, show)
    }

    fn send_encoded(&self, payload: &[u8], options: &SendOptions, show: &Show) -> Result<()> {
        match self.publish(payload, options)? {
            Sent::New(id) => {
                let sent = json!({ "message": id.to_string(), "duplicate": false });
                show.done(&sent, || id.to_string());
                Ok(())
            }
            Sent::Before(id) => {
                let sent = json!({ "message": id.to_string(), "duplicate": true });
                show.say(&sent, || id.to_string());
                Err(Exit::Duplicate.error(format!(
                    "duplicate: message {id} was sent with the same key, and this one was not sent"
                )))
            }
        }
    }

    /// Sends all lines, even if nothing reads the printed ids any more.
    fn send_lines(&self, show: &Show) -> Result<()> {
        for (sent, line) in io::stdin().lock().split(b'\n').enumerate() {
            let line = line.context("reading standard input");
            let done = line.and_then(|line| self.send(&line, show));
            done.with_context(|| format!("{sent} lines were sent, then"))?;
        }
        Ok(())
    }

    /// Sends all objects, even if nothing reads the printed ids any more. An object whose key was
    /// sent before counts as sent.
    fn send_objects(&self, show: &Show) -> Result<()> {
        let has_priorities = self.queue.transport().settings().priorities;
        let mut sent = 0;
        for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
            let line = line.context("reading standard input")?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let object = Object::parse(&line, self.options, has_priorities);
            let done = object
                .map_err(|error| Exit::Failed.error(format!("line {number}: {error:#}")))
                .and_then(|object| self.send_object(&object, show));
            done.with_context(|| format!("{sent} messages were sent, then"))?;
            sent += 1;
        }
        Ok(())
    }

    fn send_object(&self, object: &Object, show: &Show) -> Result<()> {
        let encoded = match &object.payload {
            Given::Bytes(bytes) => Cow::Borrowed(&bytes[..]),
            Given::Text(text) => self.encode(text.as_bytes())?,
        };
        match self.send_encoded(&encoded, &object.options, show) {
            Err(error) if Exit::of(&error) == Exit::Duplicate => Ok(()),
            done => done,
        }
    }

    fn encode<'p>(&self, payload: &'p [u8]) -> Result<Cow<'p, [u8]>> {
        match &self.payloads {
            Some(payloads) => payloads.encode(&self.what.queue, payload),
            None => Ok(Cow::Borrowed(payload)),
        }
    }

    fn publish(&self, payload: &[u8], options: &SendOptions) -> Result<Sent> {
        let published = self.loan(payload.len(), options).and_then(|mut loan| {
            loan.copy_from_slice(payload);
            loan.publish().map_err(SendTimeoutError::Failed)
        });
        let queue = &self.what.queue;
        let error = match published {
            Ok(id) => return Ok(Sent::New(id)),
            Err(error) => error,
        };
        match error.failure() {
            Some(SendFailure::Duplicate { of }) => Ok(Sent::Before(*of)),
            Some(SendFailure::Closed) => Err(Exit::Refused.error(format!(
                "{queue} is closed and takes no messages until ipc reopen {queue}"
            ))),
            _ => Err(error).with_context(|| format!("sending to {queue}")),
        }
    }

    /// Waits for room. Over a server it waits in slices: the server has to answer each, so a
    /// hanging server is noticed. In shared memory it waits once, so that it counts as refused
    /// once.
    fn loan(&self, bytes: usize, options: &SendOptions) -> Result<Loan<'_>, SendTimeoutError> {
        const SLICE: Duration = Duration::from_secs(1);
        let is_served = !self.queue.transport().address().starts_with("shm:");
        let timeout = self.what.timeout;
        let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let wait = match left {
                // Without waiting, the error says more exactly what is missing.
                Some(Duration::ZERO) => Wait::No,
                None if !is_served => Wait::Forever,
                Some(left) if !is_served => Wait::at_most(left),
                left => Wait::at_most(left.map_or(SLICE, |left| left.min(SLICE))),
            };
            match self.sender.loan_with(bytes, &options.clone().wait(wait)) {
                Err(error) if error.is_timeout() && wait != Wait::No && is_served => {}
                lent => return lent,
            }
        }
    }
}

enum Sent {
    New(MessageId),
    /// Another send with the same key came before.
    Before(MessageId),
}
