//! The transport: the contract, implemented by changes of a [`Folder`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipc_queue::transport::{
    OpenRequest, PortDelivery, PortLoan, PublishOnce, ReceivePort, RecvPortError, SendPort,
    SendPortError, Settle, SettleOnce, Transport, Wait, nack_delay,
};
use ipc_queue::{
    Capabilities, ControlCall, ControlError, ControlFailure, DeadLetter, DeadLetterId, DeadReason,
    Feature, MessageId, Metadata, NoRoom, QueueError, QueueSettings, QueueStats, RecvFailure,
    SendFailure, SendOptions, SenderId, SettleFailure, Support, Unavailable, Unsupported,
};

use crate::entry::{Entry, State, after, now};
use crate::folder::{Contents, Folder, FolderError, Presence};

const CAPABILITIES: Capabilities = Capabilities::none()
    .natively([Feature::Delay, Feature::Purge])
    .with(Feature::DeathNoticed, Support::Emulated);

/// A queue in a folder, on a file system with locks.
#[derive(Debug)]
pub struct DirectoryQueue(Arc<Folder>);

impl DirectoryQueue {
    pub fn open(path: &Path, request: &OpenRequest) -> Result<Self, QueueError> {
        request.settings.validate()?;
        request.check_capabilities(CAPABILITIES)?;
        Ok(Self(Arc::new(Folder::open(path, request)?)))
    }
}

impl Transport for DirectoryQueue {
    fn settings(&self) -> &QueueSettings {
        &self.0.metadata.settings
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn id(&self) -> u64 {
        self.0.metadata.id
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(DirectorySender {
            folder: Arc::clone(&self.0),
            presence: Arc::new(self.0.join()),
            sequence: Arc::default(),
        })
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(DirectoryReceiver {
            folder: Arc::clone(&self.0),
            presence: self.0.join().map(Arc::new),
        })
    }

    fn address(&self) -> String {
        self.0.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        self.control(ControlCall::Close, |contents| {
            contents.count(|counts| counts.closed = true)
        })
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.control(ControlCall::Reopen, |contents| {
            contents.count(|counts| counts.closed = false)
        })
    }

    fn purge(&self) -> Result<u64, ControlError> {
        self.control(ControlCall::Purge, |contents| {
            let mut purged = 0;
            for entry in contents.entries.clone() {
                if matches!(entry.state, State::Ready | State::Delayed) {
                    contents.delete(entry)?;
                    purged += 1;
                }
            }
            contents.count(|counts| counts.purged += purged)?;
            Ok(purged)
        })
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.control(ControlCall::Stats, |contents| {
            let mut stats = contents.counts;
            for entry in &contents.entries {
                match entry.state {
                    State::Writing => stats.writing += 1,
                    State::Ready => stats.ready += 1,
                    State::Leased => stats.leased += 1,
                    State::Delayed => stats.delayed += 1,
                    State::Dead(_) => stats.dead += 1,
                }
            }
            Ok(stats)
        })
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        self.control(ControlCall::DeadLetters, |contents| {
            let letters = contents.entries.iter();
            letters
                .filter_map(|entry| letter(&self.0, entry).transpose())
                .collect()
        })
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        if self.contents(ControlCall::Requeue)?.is_closed() {
            return Err(ControlFailure::Closed.of(self.address(), ControlCall::Requeue));
        }
        self.end_letter(ControlCall::Requeue, id, |contents, letter| {
            let order = contents.entries.last().map_or(1, |last| last.order + 1);
            contents.change(letter, |entry| {
                (entry.state, entry.order, entry.attempt) = (State::Ready, order, 0);
                (entry.nacks, entry.expiries, entry.crashes) = (0, 0, 0);
            })
        })
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.end_letter(ControlCall::Discard, id, |contents, letter| {
            contents.delete(letter)
        })
    }
}

impl DirectoryQueue {
    /// Returns the queue's contents, locked.
    fn contents(&self, call: ControlCall) -> Result<Contents<'_>, ControlError> {
        let contents = self.0.contents();
        contents.map_err(|trouble| not_done(trouble).of(self.address(), call))
    }

    fn control<R>(
        &self,
        call: ControlCall,
        act: impl FnOnce(&mut Contents<'_>) -> io::Result<R>,
    ) -> Result<R, ControlError> {
        let mut contents = self.contents(call)?;
        act(&mut contents).map_err(|error| not_done(error.into()).of(self.address(), call))
    }

    /// Applies `end` to a dead letter. `Ok(false)`: the letter is gone.
    fn end_letter(
        &self,
        call: ControlCall,
        id: DeadLetterId,
        end: impl FnOnce(&mut Contents<'_>, Entry) -> io::Result<()>,
    ) -> Result<bool, ControlError> {
        self.control(call, |contents| {
            let is_it =
                |entry: &&Entry| matches!(entry.state, State::Dead(_)) && letter_id(entry) == id;
            match contents.entries.iter().find(is_it).copied() {
                Some(letter) => end(contents, letter).map(|()| true),
                None => Ok(false),
            }
        })
    }
}

fn not_done(trouble: FolderError) -> ControlFailure {
    match trouble {
        FolderError::Removed => Unavailable::Removed.into(),
        FolderError::Io(error) => ControlFailure::Refused {
            reason: format!("the queue's folder: {error}"),
        },
    }
}

fn letter_id(entry: &Entry) -> DeadLetterId {
    DeadLetterId::new(entry.id.sender.get(), entry.id.sequence)
}

fn letter(folder: &Folder, entry: &Entry) -> io::Result<Option<DeadLetter>> {
    let State::Dead(reason) = entry.state else {
        return Ok(None);
    };
    let message = (entry.kind, entry.id, entry.sent_at);
    let payload = fs::read(folder.file(entry))?;
    let mut letter = DeadLetter::new(letter_id(entry), message, reason, payload);
    letter.attempts = entry.attempt;
    letter.nacks = entry.nacks;
    letter.expiries = entry.expiries;
    letter.crashes = entry.crashes;
    Ok(Some(letter))
}

// --- waiting -------------------------------------------------------------------------------------

/// The shortest pause between two tries. The pauses grow while there is nothing to do.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(5);

/// Tries until the wait is over. `Err`: the time that was waited, or `None` if no wait was
/// permitted.
fn poll<T>(wait: Wait, mut look: impl FnMut() -> Option<T>) -> Result<T, Option<Duration>> {
    let started = Instant::now();
    let mut pause = SHORTEST;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        let left = match wait {
            Wait::No => return Err(None),
            Wait::Forever => LONGEST,
            Wait::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
        };
        if left.is_zero() {
            return Err(Some(started.elapsed()));
        }
        thread::sleep(left.min(pause));
        pause = LONGEST.min(2 * pause);
    }
}

// --- sending -------------------------------------------------------------------------------------

/// Clones are the same sender: a place that it lent may outlive it.
#[derive(Clone, Debug)]
struct DirectorySender {
    folder: Arc<Folder>,
    presence: Arc<Result<Presence, FolderError>>,
    sequence: Arc<AtomicU64>,
}

/// A place that was lent.
#[derive(Debug)]
struct DirectoryPlace {
    sender: DirectorySender,
    token: u64,
    delay: Duration,
    file: File,
}

impl SendPort for DirectorySender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        options.check(CAPABILITIES).map_err(SendFailure::from)?;
        let settings = &self.folder.metadata.settings;
        let most = settings.max_message_bytes.max(settings.inline_bytes) as usize;
        if len > most {
            return Err(SendFailure::TooLarge { bytes: len, most }.into());
        }
        let lent = poll(wait, || self.try_lend(options).transpose());
        let place = match lent {
            Ok(place) => place?,
            Err(waited) => return Err(self.refuse(waited)),
        };
        Ok(PortLoan::new(len, place))
    }
}

impl DirectorySender {
    /// Lends a place. `Ok(None)`: there is none.
    fn try_lend(&self, options: &SendOptions) -> Result<Option<DirectoryPlace>, SendFailure> {
        let mut contents = self.folder.contents().map_err(not_sent)?;
        if contents.is_closed() {
            return Err(SendFailure::Closed);
        }
        let is_full = |contents: &Contents<'_>| {
            contents.entries.len() >= self.folder.metadata.settings.capacity as usize
        };
        if is_full(&contents) {
            contents.look_for_dead().map_err(io_not_sent)?;
        }
        if is_full(&contents) {
            return Ok(None);
        }
        let entry = Entry::on_loan(options.kind, self.id()?);
        let file = File::create_new(self.folder.file(&entry)).map_err(io_not_sent)?;
        Ok(Some(DirectoryPlace {
            sender: self.clone(),
            token: entry.token,
            delay: options.delay,
            file,
        }))
    }

    /// Returns the sender id of its messages. A sender that could not create its file cannot send.
    fn id(&self) -> Result<u64, SendFailure> {
        let presence = (*self.presence).as_ref();
        let presence = presence.map_err(|why| Unavailable::transport(format!("{why:?}")))?;
        Ok(presence.id)
    }

    fn refuse(&self, waited: Option<Duration>) -> SendPortError {
        let mut contents = match self.folder.contents() {
            Ok(contents) => contents,
            Err(trouble) => return not_sent(trouble).into(),
        };
        let dead = |entry: &&Entry| matches!(entry.state, State::Dead(_));
        let dead = contents.entries.iter().filter(dead).count() as u64;
        let _ = contents.count(|counts| counts.refused += 1);
        let capacity = self.folder.metadata.settings.capacity;
        SendPortError::NoRoom {
            missing: NoRoom::Places { capacity },
            waited,
            dead,
        }
    }
}

impl PublishOnce for DirectoryPlace {
    fn publish(&self, payload: Vec<u8>) -> Result<MessageId, SendFailure> {
        let written = (&self.file).write_all(&payload);
        let mut contents = self.sender.folder.contents().map_err(not_sent)?;
        let place = contents.by_token(State::Writing, self.token);
        let place = place.ok_or_else(|| Unavailable::transport("its file is gone"))?;
        if let Err(error) = written {
            let _ = contents.delete(place);
            return Err(io_not_sent(error));
        }
        let sender = self.sender.id()?;
        let order = contents.entries.last().map_or(1, |last| last.order + 1);
        let sequence = self.sender.sequence.fetch_add(1, Ordering::Relaxed);
        let id = MessageId::new(SenderId::new(sender), sequence);
        let sent = contents.change(place, |entry| {
            entry.order = order;
            entry.id = id;
            entry.sent_at = now();
            (entry.state, entry.due) = match self.delay.is_zero() {
                true => (State::Ready, 0),
                false => (State::Delayed, after(self.delay)),
            };
        });
        sent.map_err(io_not_sent)?;
        let counted = contents.count(|counts| {
            counts.sent += 1;
            counts.bytes_sent += payload.len() as u64;
        });
        counted.map_err(io_not_sent)?;
        Ok(id)
    }

    fn abandon(&self) {
        if let Ok(mut contents) = self.sender.folder.contents()
            && let Some(place) = contents.by_token(State::Writing, self.token)
        {
            let _ = contents.delete(place);
        }
    }

    fn queue(&self) -> String {
        self.sender.folder.address()
    }
}

fn not_sent(trouble: FolderError) -> SendFailure {
    match trouble {
        FolderError::Removed => Unavailable::Removed.into(),
        FolderError::Io(error) => io_not_sent(error),
    }
}

fn io_not_sent(error: io::Error) -> SendFailure {
    Unavailable::transport(format!("the queue's folder: {error}")).into()
}

// --- receiving -----------------------------------------------------------------------------------

#[derive(Debug)]
struct DirectoryReceiver {
    folder: Arc<Folder>,
    presence: Result<Arc<Presence>, FolderError>,
}

/// The right to settle one delivery.
struct DirectoryHeld {
    folder: Arc<Folder>,
    token: u64,
    /// The presence of the handle that received it. The handle itself may be gone.
    _presence: Arc<Presence>,
}

impl ReceivePort for DirectoryReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        match poll(wait, || self.try_recv().transpose()) {
            Ok(received) => received,
            Err(None) => Err(RecvPortError::Empty),
            Err(Some(waited)) => Err(RecvPortError::TimedOut { waited }),
        }
    }
}

impl DirectoryReceiver {
    /// Takes the next message. `Ok(None)`: none is ready.
    fn try_recv(&self) -> Result<Option<PortDelivery>, RecvPortError> {
        let mut contents = self.folder.contents().map_err(|trouble| match trouble {
            FolderError::Removed => Unavailable::Removed,
            FolderError::Io(error) => not_received(error),
        })?;
        let presence = self.presence.as_ref();
        let presence = presence.map_err(|why| Unavailable::transport(format!("{why:?}")))?;
        let next = |contents: &Contents<'_>| {
            let mut entries = contents.entries.iter().copied();
            entries.find(|entry| entry.state == State::Ready)
        };
        let mut ready = next(&contents);
        if ready.is_none() && contents.look_for_dead().map_err(not_received)? {
            ready = next(&contents);
        }
        match ready {
            Some(entry) => {
                let taken = self.take(presence, &mut contents, entry);
                Ok(Some(taken.map_err(not_received)?))
            }
            None if contents.is_closed() && is_all_theirs(&contents, presence.id) => {
                Err(RecvFailure::Closed.into())
            }
            None => Ok(None),
        }
    }

    fn take(
        &self,
        presence: &Arc<Presence>,
        contents: &mut Contents<'_>,
        entry: Entry,
    ) -> io::Result<PortDelivery> {
        let payload = fs::read(self.folder.file(&entry))?;
        let token = fastrand::u64(..);
        contents.change(entry, |entry| {
            entry.state = State::Leased;
            entry.due = self.folder.metadata.settings.lease.map_or(0, after);
            entry.attempt += 1;
            entry.deliveries += 1;
            (entry.token, entry.holder) = (token, presence.id);
        })?;
        contents.count(|counts| {
            counts.received += 1;
            counts.bytes_received += payload.len() as u64;
            counts.redelivered += u64::from(entry.attempt > 0);
        })?;
        let (attempt, delivery) = (entry.attempt + 1, entry.deliveries + 1);
        let metadata = Metadata::new(
            entry.kind,
            entry.id,
            entry.sent_at,
            attempt,
            delivery.into(),
        );
        let held = DirectoryHeld {
            folder: Arc::clone(&self.folder),
            token,
            _presence: Arc::clone(presence),
        };
        Ok(PortDelivery::new(
            self.folder.metadata.id,
            metadata,
            payload,
            held,
        ))
    }
}

/// Returns whether nothing is left that a handle other than `holder` may still deliver or settle.
fn is_all_theirs(contents: &Contents<'_>, holder: u64) -> bool {
    contents.entries.iter().all(|entry| match entry.state {
        State::Dead(_) => true,
        State::Leased => entry.holder == holder,
        State::Writing | State::Ready | State::Delayed => false,
    })
}

impl SettleOnce for DirectoryHeld {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        let mut contents = self.folder.contents().map_err(not_settled)?;
        let Some(entry) = contents.by_token(State::Leased, self.token) else {
            let _ = contents.count(|counts| counts.leases_lost += 1);
            return Err(SettleFailure::LeaseLost);
        };
        let settled = match how {
            Settle::Ack => contents.delete(entry),
            Settle::Bury { .. } => {
                contents.change(entry, |entry| entry.state = State::Dead(DeadReason::Buried))
            }
            Settle::Nack { delay, .. } => {
                let settings = &self.folder.metadata.settings;
                let delay = nack_delay(settings, delay, entry.attempt);
                contents.give_back(entry, delay, DeadReason::Nacked)
            }
            Settle::Snooze { .. } => {
                return Err(Unsupported::by_transport(Feature::Snooze).into());
            }
        };
        let counted = settled.and_then(|()| {
            contents.count(|counts| match how {
                Settle::Ack => counts.acked += 1,
                Settle::Bury { .. } => counts.buried += 1,
                Settle::Nack { .. } | Settle::Snooze { .. } => counts.nacked += 1,
            })
        });
        counted.map_err(|error| not_settled(FolderError::Io(error)))
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        let mut contents = self.folder.contents().map_err(not_settled)?;
        let entry = contents.by_token(State::Leased, self.token);
        let entry = entry.ok_or(SettleFailure::LeaseLost)?;
        if entry.due == 0 {
            return Ok(());
        }
        let extended = contents.change(entry, |entry| entry.due = after(by));
        extended.map_err(|error| not_settled(FolderError::Io(error)))
    }

    fn queue(&self) -> String {
        self.folder.address()
    }
}

fn not_received(error: io::Error) -> Unavailable {
    Unavailable::transport(format!("the queue's folder: {error}"))
}

fn not_settled(trouble: FolderError) -> SettleFailure {
    match trouble {
        FolderError::Removed => SettleFailure::LeaseLost,
        FolderError::Io(error) => {
            Unavailable::transport(format!("the queue's folder: {error}")).into()
        }
    }
}
