//! The queue as `ipc-queue` sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_proto::QueueSettings;
use ipc_queue::transport::{
    Connector, LeaseInfo, OpenMode, OpenRequest, ReceivePort, SendPort, Transport, Wait,
};
use ipc_queue::{
    Capabilities, ControlCall, ControlError, ControlFailure, DeadLetter, DeadLetterId, DrainError,
    Feature, Key, QueueError, QueueStats, Unavailable, Unsupported, without_secrets,
};

use crate::address::{NatsAddress, storage};
use crate::capabilities::CAPABILITIES;
use crate::connection::Connection;
use crate::directory::{Directory, Entry};
use crate::objects::bucket_name;
use crate::opened;
use crate::options::NatsOptions;
use crate::receiver::NatsReceiver;
use crate::record::{self, State};
use crate::request_error::RequestError;
use crate::runtime::block_on;
use crate::sender::NatsSender;
use crate::shared::{self, Life, Shared, Side, time_left};
use crate::steps::Steps;

/// A queue on a NATS server, or a cluster of them.
#[derive(Clone, Debug)]
pub struct NatsQueue {
    shared: Arc<Shared>,
}

/// Lets this process open addresses that begin with `nats://`.
///
/// ```no_run
/// ipc_nats::register();
/// let jobs = ipc_queue::Queue::<String>::open("nats://127.0.0.1/jobs")?;
/// jobs.sender().send("resize cat.png".to_owned())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn register() {
    register_with(NatsOptions::new());
}

/// Like [`register`], with a login, TLS settings or a time-out for all addresses that do not set
/// them.
pub fn register_with(options: NatsOptions) {
    ipc_queue::transport::register("nats", Arc::new(Nats { options }));
}

#[derive(Debug)]
struct Nats {
    options: NatsOptions,
}

impl Nats {
    fn address(&self, rest: &str) -> Result<NatsAddress, QueueError> {
        let mut address = NatsAddress::parse(rest)?;
        address.options = address.options.or(self.options.clone());
        Ok(address)
    }
}

impl Connector for Nats {
    fn open(&self, rest: &str, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(NatsQueue::open(&self.address(rest)?, request)?))
    }

    fn remove(&self, rest: &str) -> Result<bool, ControlError> {
        let address = self.address(rest).map_err(|error| {
            let shown = without_secrets(&format!("nats:{rest}"));
            ControlFailure::from(error).of(shown, ControlCall::Remove)
        })?;
        NatsQueue::remove(&address)
    }
}

/// The interval at which a call that waits for a queue to drain checks by itself.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

impl NatsQueue {
    /// The features of every queue over NATS.
    pub const CAPABILITIES: Capabilities = CAPABILITIES;

    /// Opens the queue, or creates it, as `request` says.
    ///
    /// # Errors
    /// [`QueueError`] if the queue exists and must not, does not exist and must, or differs.
    /// `Transport` if the server does not answer or can't store the queue.
    pub fn open(address: &NatsAddress, request: &OpenRequest) -> Result<Self, QueueError> {
        request.settings.validate()?;
        block_on(Self::open_async(address, request))
    }

    async fn open_async(address: &NatsAddress, request: &OpenRequest) -> Result<Self, QueueError> {
        let name = address.name.as_str();
        let connection = Connection::to(address).await;
        let connection = connection.map_err(QueueError::Transport)?;
        let directory = Directory::of(&connection, address).await;
        let directory = directory.map_err(QueueError::Transport)?;
        loop {
            let found = directory.entry(name).await.map_err(QueueError::Transport)?;
            if let Some((entry, revision)) = found {
                if entry.removed {
                    let steps = Steps::new();
                    complete_removal(&connection, &directory, name, &entry, &steps)
                        .await
                        .map_err(|error| QueueError::Transport(error.to_string()))?;
                    continue;
                }
                check(name, &entry, request)?;
                if !entry.made {
                    // The next lookup shows whether it is made now, or was removed.
                    complete_creation(&connection, &directory, name, &entry).await?;
                    continue;
                }
                let shared = opened::open(&connection, &directory, name, entry, revision);
                return Ok(Self { shared });
            }
            if request.mode == OpenMode::Open {
                let name = name.to_owned();
                return Err(QueueError::NotFound { name });
            }
            refuse_unsupported_options(&request.settings)?;
            let entry = Entry::new(request, address);
            if create(&connection, &directory, name, &entry).await? {
                let shared = opened::open(&connection, &directory, name, entry, 0);
                return Ok(Self { shared });
            }
        }
    }

    /// For tests.
    #[cfg(feature = "test-server")]
    pub(crate) fn create_in_first_layout(
        address: &NatsAddress,
        settings: QueueSettings,
    ) -> Result<bool, QueueError> {
        let request = OpenRequest {
            mode: OpenMode::Create,
            settings,
            ..OpenRequest::default()
        };
        let entry = Entry::new(&request, address).in_first_layout();
        block_on(async {
            let connection = Connection::to(address).await;
            let connection = connection.map_err(QueueError::Transport)?;
            let directory = Directory::of(&connection, address).await;
            let directory = directory.map_err(QueueError::Transport)?;
            create(&connection, &directory, address.name.as_str(), &entry).await
        })
    }

    /// Removes the queue with everything in it; `Ok(false)` if there was none.
    ///
    /// # Errors
    /// [`ControlError`] if the server does not answer. Removing the queue again completes an
    /// interrupted removal.
    pub fn remove(address: &NatsAddress) -> Result<bool, ControlError> {
        let steps = Steps::new();
        let removed = block_on(Self::remove_async(address, &steps));
        removed.map_err(|error| {
            let failure = steps.failure(error);
            failure.of(address.to_string(), ControlCall::Remove)
        })
    }

    async fn remove_async(address: &NatsAddress, steps: &Steps) -> Result<bool, RequestError> {
        let name = address.name.as_str();
        let connection = Connection::to(address)
            .await
            .map_err(RequestError::Server)?;
        steps.read("open the directory");
        let directory = Directory::of(&connection, address).await;
        let directory = directory.map_err(RequestError::Server)?;
        let marked = directory.mark_removed(name, steps).await;
        let Some(entry) = marked.map_err(RequestError::Server)? else {
            return Ok(false);
        };
        for shared in opened::find(entry.id) {
            shared.set_life(Life::Removed);
        }
        complete_removal(&connection, &directory, name, &entry, steps).await?;
        Ok(true)
    }

    /// Runs a call, unless this process is a forked copy or the queue is gone.
    fn control<R>(
        &self,
        call: ControlCall,
        ask: impl AsyncFnOnce(&Steps) -> Result<R, RequestError>,
    ) -> Result<R, ControlError> {
        if self.shared.connection.is_forked() {
            return Err(ControlFailure::from(Unavailable::Forked).of(self.address(), call));
        }
        if self.shared.life() == Life::Removed {
            return Err(ControlFailure::from(Unavailable::Removed).of(self.address(), call));
        }
        let steps = Steps::new();
        block_on(ask(&steps)).map_err(|error| {
            let failure = self.shared.control_failure(&steps, error);
            failure.of(self.address(), call)
        })
    }

    fn change(&self, call: ControlCall, change: impl Fn(&mut Entry)) -> Result<(), ControlError> {
        let shared = &self.shared;
        self.control(call, async |steps| {
            let changed = shared
                .directory
                .change(&shared.name, shared.entry.id, change, steps)
                .await;
            let changed = changed
                .map_err(RequestError::Server)?
                .ok_or(RequestError::Gone)?;
            shared.learn(Some(&changed));
            Ok(())
        })
    }

    async fn entry_async(&self, steps: &Steps) -> Result<Entry, RequestError> {
        steps.read("read its entry in the directory");
        let entry = self
            .shared
            .entry_now()
            .await
            .map_err(RequestError::Server)?;
        entry.ok_or(RequestError::Gone)
    }

    /// Waits until everything in a closed queue is settled.
    async fn drain_async(&self, wait: Wait) -> Result<(), DrainError> {
        let shared = &self.shared;
        let started = Instant::now();
        loop {
            let steps = Steps::new();
            steps.change("close it");
            steps.read("list the records");
            let heard = shared.control.count();
            let left = match shared.life() {
                Life::Removed => Err(RequestError::Gone),
                _ => shared.left(None, shared.until(wait)).await,
            };
            let left = left.map_err(|error| {
                let failure = shared.control_failure(&steps, error);
                failure.of(self.address(), ControlCall::Drain)
            })?;
            if left == 0 {
                return Ok(());
            }
            let deadline = time_left(wait, started).map_err(|waited| DrainError::TimedOut {
                queue: self.address(),
                waited: waited.unwrap_or_default(),
                left,
            })?;
            let time = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let slice = time.map_or(LOOKS_EVERY, |time| time.min(LOOKS_EVERY));
            let _ = tokio::time::timeout(slice, shared.control.after(heard)).await;
        }
    }

    /// Message by message: an interrupted purge has dropped some, and the next one drops the rest.
    async fn purge_async(&self, steps: &Steps) -> Result<u64, RequestError> {
        let shared = &self.shared;
        let mut purged = 0;
        steps.read("list the records");
        for (stream, place) in shared.places(shared.connection.soon()).await? {
            if place.record.state == State::Ready {
                steps.change("delete a record");
                let until = shared.connection.soon();
                let dropped = shared.drop_message(stream, &place, until).await?;
                shared
                    .counts
                    .add(|counts| counts.purged += u64::from(dropped));
                purged += u64::from(dropped);
            }
        }
        shared.notify(Side::Room).await;
        Ok(purged)
    }

    async fn stats_async(&self, steps: &Steps) -> Result<QueueStats, RequestError> {
        let shared = &self.shared;
        steps.read("list the records");
        let mut stats = shared.counts.now();
        let places = shared.places(shared.connection.soon()).await;
        let now = record::now();
        for (_, place) in places? {
            let record = &place.record;
            let count = match record.state {
                State::Writing => &mut stats.writing,
                State::Ready if record.is_delayed(now) => &mut stats.delayed,
                State::Ready => &mut stats.ready,
                State::Leased => &mut stats.leased,
                State::Dead => &mut stats.dead,
            };
            *count += 1;
        }
        let entry = self.entry_async(steps).await?;
        (stats.paused, stats.closed) = (entry.paused, entry.closed);
        stats.participants = 1;
        Ok(stats)
    }

    async fn holdings_async(&self, steps: &Steps) -> Result<Vec<LeaseInfo>, RequestError> {
        steps.read("list the records");
        let shared = &self.shared;
        let places = shared.places(shared.connection.soon()).await?;
        let leased = places.into_iter().map(|(_, place)| place.record);
        let leased = leased.filter(|record| record.state == State::Leased);
        let lease = |record: record::Record| {
            let holder = record.holder?;
            let (name, pid) = (holder.name, holder.pid);
            Some(LeaseInfo::new(name, pid, record.id, record.attempt))
        };
        Ok(leased.filter_map(lease).collect())
    }
}

fn refuse_unsupported_options(settings: &QueueSettings) -> Result<(), QueueError> {
    let wanted = [(settings.priorities, Feature::Priorities)];
    match wanted.into_iter().find(|(wanted, _)| *wanted) {
        Some((_, feature)) => Err(Unsupported::by_transport(feature).into()),
        None => Ok(()),
    }
}

/// Writes the entry and makes the streams. `false`: another queue of that name exists, or existed.
async fn create(
    connection: &Arc<Connection>,
    directory: &Directory,
    name: &str,
    entry: &Entry,
) -> Result<bool, QueueError> {
    let added = directory.add(name, entry).await;
    if !added.map_err(QueueError::Transport)? {
        return Ok(false);
    }
    let created = complete_creation(connection, directory, name, entry).await;
    if created.is_err() {
        // Another process may have completed it meanwhile.
        let steps = Steps::new();
        let give_up = |entry: &mut Entry| entry.removed = !entry.made;
        let given_up = directory.change(name, entry.id, give_up, &steps).await;
        if let Ok(Some((entry, _))) = given_up
            && entry.removed
        {
            let _ = complete_removal(connection, directory, name, &entry, &steps).await;
        }
    }
    created
}

/// Makes the missing streams of a queue, and notes that in its entry. `false`: the queue was
/// removed meanwhile.
async fn complete_creation(
    connection: &Arc<Connection>,
    directory: &Directory,
    name: &str,
    entry: &Entry,
) -> Result<bool, QueueError> {
    let streams = shared::streams(connection, name, entry);
    for stream in &streams {
        let storage = storage(entry.in_memory);
        let made = stream
            .create(&entry.settings, storage, entry.replicas)
            .await;
        made.map_err(QueueError::Transport)?;
    }
    let is_made = |entry: &mut Entry| entry.made = true;
    let entry = directory
        .change(name, entry.id, is_made, &Steps::new())
        .await;
    if entry.map_err(QueueError::Transport)?.is_some() {
        return Ok(true);
    }
    delete(&streams, connection.soon()).await;
    Ok(false)
}

/// Deletes the streams of a queue that was removed while it was created. If some remain, they take
/// room on the server, and do no other harm.
async fn delete(streams: &[crate::priority_stream::PriorityStream], until: Instant) {
    for stream in streams {
        let _ = stream.delete(until).await;
    }
}

/// Deletes the parts of a queue that was marked as removed, and then its entry.
async fn complete_removal(
    connection: &Arc<Connection>,
    directory: &Directory,
    name: &str,
    entry: &Entry,
    steps: &Steps,
) -> Result<(), RequestError> {
    steps.change("delete its streams, which removing it again completes");
    let until = connection.soon();
    for stream in shared::streams(connection, name, entry) {
        stream.delete(until).await?;
    }
    let bucket = format!("OBJ_{}", bucket_name(entry.id));
    connection.delete_stream(&bucket, until).await?;
    steps.change("take its entry out of the directory");
    let forgotten = directory.forget(name, entry.id).await;
    forgotten.map_err(RequestError::Server)
}

fn check(name: &str, found: &Entry, request: &OpenRequest) -> Result<(), QueueError> {
    if request.mode == OpenMode::Create {
        return Err(QueueError::Exists {
            name: name.to_owned(),
        });
    }
    request.check_payload(name, &found.payload)?;
    request.check(name, &found.settings)
}

impl Transport for NatsQueue {
    fn settings(&self) -> &QueueSettings {
        &self.shared.entry.settings
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn id(&self) -> u64 {
        self.shared.entry.id
    }

    fn payload(&self) -> Option<&str> {
        Some(&self.shared.entry.payload)
    }

    fn sender(&self) -> Box<dyn SendPort> {
        Box::new(NatsSender::new(&self.shared))
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        Box::new(NatsReceiver::new(&self.shared))
    }

    fn address(&self) -> String {
        self.shared.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Close, |entry| entry.closed = true)
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Reopen, |entry| entry.closed = false)
    }

    fn is_closed(&self) -> Result<bool, ControlError> {
        let entry = self.control(ControlCall::IsClosed, async |steps| {
            self.entry_async(steps).await
        })?;
        Ok(entry.closed)
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Pause, |entry| entry.paused = true)
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.change(ControlCall::Resume, |entry| entry.paused = false)
    }

    fn is_paused(&self) -> Result<bool, ControlError> {
        let entry = self.control(ControlCall::IsPaused, async |steps| {
            self.entry_async(steps).await
        })?;
        Ok(entry.paused)
    }

    fn purge(&self) -> Result<u64, ControlError> {
        self.control(ControlCall::Purge, async |steps| {
            self.purge_async(steps).await
        })
    }

    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        self.change(ControlCall::Drain, |entry| entry.closed = true)?;
        block_on(self.drain_async(wait))
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.control(ControlCall::Stats, async |steps| {
            self.stats_async(steps).await
        })
    }

    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        self.control(ControlCall::Leases, async |steps| {
            self.holdings_async(steps).await
        })
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        let shared = &self.shared;
        self.control(ControlCall::DeadLetters, async |steps| {
            shared.dead_letters(steps).await
        })
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        let (shared, call) = (&self.shared, ControlCall::Requeue);
        let entry = self.control(call, async |steps| self.entry_async(steps).await)?;
        if entry.closed {
            return Err(ControlFailure::Closed.of(self.address(), call));
        }
        self.control(call, async |steps| shared.requeue(id, steps).await)
    }

    fn forget(&self, key: Key) -> Result<bool, ControlError> {
        let shared = &self.shared;
        if shared.entry.settings.dedup_window.is_none() {
            let missing = Unsupported::by_settings(Feature::Deduplication);
            return Err(ControlFailure::from(missing).of(self.address(), ControlCall::Forget));
        }
        self.control(ControlCall::Forget, async |steps| {
            shared.forget_key(key.number(), steps).await
        })
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        let shared = &self.shared;
        self.control(ControlCall::Discard, async |steps| {
            shared.discard(id, steps).await
        })
    }
}
