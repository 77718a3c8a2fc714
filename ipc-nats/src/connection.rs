//! A connection to a server or a cluster, shared by all users in this process.
//!
//! The client reconnects by itself, forever, to any server of the cluster that answers. A request
//! is repeated until an answer comes or its time is up. So each request here must be safe to
//! repeat, or report that it was repeated.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::{self, Context};
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, HeaderMap, Request, ServerAddr,
};
use bytes::Bytes;
use futures_util::StreamExt;
use ipc_queue::ThisProcess;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use crate::address::NatsAddress;
use crate::options::NatsOptions;
use crate::remedy::with_remedy;
use crate::request_error::RequestError;
use crate::runtime::spawn;

pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
    /// The servers, as given.
    pub(crate) servers: String,
    /// The time limit of an operation that does not wait for others.
    pub(crate) time: Duration,
    /// A name for this process that no other process ever has.
    pub(crate) process: String,
    /// The task that answers for this process, and holds the connection.
    presence: AbortHandle,
    made_by: ThisProcess,
}

/// Why the server did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No subscriber: the stream is gone, or JetStream is off or has no quorum.
    NobodyListens,
    /// The server returned an error.
    Error {
        /// NATS's number of the error.
        code: u64,
        text: String,
    },
    /// The server does not answer.
    Silent(String),
}

/// Error numbers, as in `server/errors.json` of nats-server.
pub(crate) mod code {
    pub(crate) const NO_MESSAGE: u64 = 10037;
    pub(crate) const NO_SUCH_SEQUENCE: u64 = 10043;
    /// One of its causes: the message does not exist, and the stream is in a file.
    pub(crate) const DELETE_FAILED: u64 = 10057;
    pub(crate) const NO_STREAM: u64 = 10059;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
    /// One of its causes: the stream is full.
    pub(crate) const STORE_FAILED: u64 = 10077;
    pub(crate) const NOT_ENABLED: u64 = 10076;
    pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
}

/// The longest time that one request may take before it is repeated.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before the next request to a server that has just lost its leader.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause that lets another write of the same subject end.
const SHORT_PAUSE: Duration = Duration::from_millis(5);

type Connections = HashMap<Key, Weak<Connection>>;

/// Connections with the same key are shared.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    servers: Vec<String>,
    options: NatsOptions,
}

static CONNECTIONS: LazyLock<Mutex<Connections>> = LazyLock::new(Mutex::default);

/// The connection, unless it has no users any more or belongs to the parent: a forked child needs
/// its own.
fn usable(connection: &Weak<Connection>) -> Option<Arc<Connection>> {
    connection
        .upgrade()
        .filter(|connection| !connection.is_forked())
}

fn connections() -> MutexGuard<'static, Connections> {
    CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Deserialize)]
struct Failed {
    error: Option<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The server's answer to a publish.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    #[serde(default)]
    pub(crate) seq: u64,
}

impl Refusal {
    /// Returns whether the stream has as many messages as it may have.
    pub(crate) fn is_full(&self) -> bool {
        self.is_store_failure("maximum messages exceeded")
    }

    /// Returns whether the subject has a message and may have only one.
    pub(crate) fn is_full_for_subject(&self) -> bool {
        self.is_store_failure("maximum messages per subject exceeded")
    }

    /// Returns whether the message does not exist, or no longer exists.
    pub(crate) fn is_no_message(&self) -> bool {
        let Self::Error { code, text } = self else {
            return false;
        };
        match *code {
            code::NO_MESSAGE | code::NO_SUCH_SEQUENCE => true,
            code::DELETE_FAILED => {
                text.contains("no message found") || text.contains("message was not found")
            }
            _ => false,
        }
    }

    fn is_store_failure(&self, why: &str) -> bool {
        matches!(self, Self::Error { code, text } if *code == code::STORE_FAILED && text == why)
    }
}

impl Connection {
    /// Connects, or returns the existing connection.
    pub(crate) async fn to(address: &NatsAddress) -> Result<Arc<Self>, String> {
        let options = address.options.clone().or(NatsOptions::from_env()?);
        let key = Key {
            servers: address.servers.clone(),
            options,
        };
        if let Some(connection) = connections().get(&key).and_then(usable) {
            return Ok(connection);
        }
        let made = Arc::new(Self::connect(&key.servers, &key.options).await?);
        let mut known = connections();
        if let Some(connection) = known.get(&key).and_then(usable) {
            return Ok(connection);
        }
        known.retain(|_, connection| connection.strong_count() > 0);
        known.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    async fn connect(servers: &[String], options: &NatsOptions) -> Result<Self, String> {
        let label = servers.join(",");
        let addresses: Vec<ServerAddr> = servers
            .iter()
            .map(|server| format!("nats://{server}").parse())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{label} is not the address of a server: {error}"))?;
        let within = options.time();
        let count = servers.len();
        // A name may resolve to two addresses.
        let is_name = |server: &ServerAddr| server.host().parse::<IpAddr>().is_err();
        let attempts = addresses
            .iter()
            .map(|server| 1 + u32::from(is_name(server)));
        let attempts: u32 = attempts.sum();
        let client = ConnectOptions::new()
            .name("ipc-nats")
            .no_echo()
            .max_reconnects(None)
            .connection_timeout(within / attempts)
            .request_timeout(Some(within))
            .reconnect_delay_callback(move |attempt| delay_before(attempt, count));
        let client = options.apply(client)?;
        let connected = tokio::time::timeout(within, client.connect(addresses)).await;
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(why_not_connected(&label, options, &error)),
            Err(_) => {
                return Err(format!(
                    "the NATS server at {label} does not answer within {within:?}"
                ));
            }
        };
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(within);
        let process = format!("{:016x}", fastrand::u64(1..));
        let presence = answer_for(&client, &process).await?;
        Ok(Self {
            client,
            jetstream,
            servers: label,
            time: within,
            process,
            presence,
            made_by: ThisProcess::current(),
        })
    }

    /// The time that one request may take before it is repeated.
    fn patience(&self) -> Duration {
        PATIENCE.min(self.time)
    }

    /// The deadline of an operation that does not wait for others.
    pub(crate) fn soon(&self) -> Instant {
        Instant::now() + self.time
    }

    /// Returns whether this process is a forked copy of the one that connected. A copy has none of
    /// its threads.
    pub(crate) fn is_forked(&self) -> bool {
        !self.made_by.is_current()
    }

    /// Returns whether a process still has its connection, as far as its servers know. A process
    /// that is cut off counts as dead, so the caller's action must be safe for a live process too.
    pub(crate) async fn lives(&self, process: &str) -> bool {
        if process == self.process {
            return true;
        }
        let subject = presence(process);
        let asked = self.client.request(subject, Bytes::new()).await;
        !asked.is_err_and(|error| error.kind() == RequestErrorKind::NoResponders)
    }

    /// Repeats a request until there is an answer, or until the deadline. Also returns whether the
    /// request was repeated.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        until: Instant,
    ) -> (Result<T, Refusal>, bool) {
        let mut again = false;
        loop {
            let answer = self
                .ask_once(subject, headers, payload.clone(), until)
                .await;
            let pause = match &answer {
                Ok(_) => return (answer, again),
                Err(Refusal::Error { code, .. }) if is_in_flight(*code) => SHORT_PAUSE,
                Err(Refusal::Error { code, .. }) if is_passing(*code) => PAUSE,
                Err(Refusal::Error { .. }) => return (answer, again),
                // The caller finds out whether this is temporary.
                Err(Refusal::NobodyListens) => return (answer, again),
                Err(Refusal::Silent(_)) => PAUSE,
            };
            if Instant::now() + pause >= until {
                return (answer, again);
            }
            again = true;
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_once<T: DeserializeOwned>(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        until: Instant,
    ) -> Result<T, Refusal> {
        let left = until.saturating_duration_since(Instant::now());
        let mut request = Request::new()
            .payload(payload)
            .timeout(Some(left.max(LEAST).min(self.patience())));
        if let Some(headers) = headers {
            request = request.headers(headers.clone());
        }
        let sent = self.client.send_request(subject.to_owned(), request).await;
        let message = sent.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Refusal::NobodyListens,
            _ => Refusal::Silent(error.to_string()),
        })?;
        answer(&message.payload)
    }

    /// Deletes a stream, if it exists.
    pub(crate) async fn delete_stream(
        &self,
        name: &str,
        until: Instant,
    ) -> Result<(), RequestError> {
        let subject = format!("$JS.API.STREAM.DELETE.{name}");
        let (answer, _) = self
            .ask::<serde_json::Value>(&subject, None, Bytes::new(), until)
            .await;
        match answer.map_err(|refusal| self.request_error(&refusal)) {
            Ok(_) | Err(RequestError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn request_error(&self, refusal: &Refusal) -> RequestError {
        match refusal {
            Refusal::Error { code, .. } if *code == code::NO_STREAM => RequestError::Gone,
            // A cluster that is electing a leader may give the same answer.
            Refusal::Error { code, .. } if is_passing(*code) || is_in_flight(*code) => {
                RequestError::Server(self.explain(refusal))
            }
            Refusal::Error { .. } => RequestError::Refused(self.explain(refusal)),
            Refusal::NobodyListens | Refusal::Silent(_) => {
                RequestError::Server(self.explain(refusal))
            }
        }
    }

    /// The message to the user about a refusal.
    pub(crate) fn explain(&self, refusal: &Refusal) -> String {
        let servers = &self.servers;
        match refusal {
            Refusal::NobodyListens => with_remedy(
                &format!("the NATS server at {servers} has no JetStream for this now"),
                &"no responders",
            ),
            Refusal::Error { code, text } => match *code {
                code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT => with_remedy(
                    &format!("the NATS server at {servers} has no JetStream for this"),
                    text,
                ),
                _ => format!("the NATS server at {servers} reports: {text} (error {code})"),
            },
            Refusal::Silent(why) => format!(
                "the NATS server at {servers} does not answer ({why}): is it running and reachable?"
            ),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Connection");
        shown.field("servers", &self.servers);
        shown.field("process", &self.process);
        shown.finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A forked copy has no thread that would receive it.
        if !self.is_forked() {
            self.presence.abort();
        }
    }
}

/// The subject on which a process answers whether it lives.
fn presence(process: &str) -> String {
    format!("ipc-alive.{process}")
}

/// Answers the question whether this process lives, for as long as it has this connection.
async fn answer_for(client: &Client, process: &str) -> Result<AbortHandle, String> {
    let asked = client.subscribe(presence(process)).await;
    let mut asked = asked.map_err(|error| error.to_string())?;
    let client = client.clone();
    Ok(spawn(async move {
        while let Some(question) = asked.next().await {
            if let Some(reply) = question.reply {
                let _ = client.publish(reply, Bytes::new()).await;
            }
        }
    }))
}

/// The pause before an attempt to connect to one of `servers`: none until each was tried once.
fn delay_before(attempt: usize, servers: usize) -> Duration {
    let rounds_over = attempt.saturating_sub(servers).min(25);
    Duration::from_millis(20 * rounds_over as u64)
}

fn why_not_connected(servers: &str, options: &NatsOptions, error: &ConnectError) -> String {
    let text = with_sources(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => format!(
            "the NATS server at {servers} refuses {}: log in with nats://USER:PASSWORD@HOST, \
             ?creds=FILE or ?nkey=FILE, or set NATS_USER and NATS_PASSWORD, NATS_TOKEN, \
             NATS_CREDS or NATS_NKEY",
            options.login_kind()
        ),
        _ if text.contains("peer certificate") => format!(
            "the certificate of the NATS server at {servers} is not trusted: {text}; name its \
             authority with ?ca=FILE or NATS_CA, and the host as the certificate does"
        ),
        _ if text.contains("received fatal alert") => format!(
            "the NATS server at {servers} refuses TLS: {text}; it may want a client certificate: \
             ?cert=FILE&key=FILE, or NATS_CERT and NATS_KEY"
        ),
        ConnectErrorKind::Tls => {
            format!("no TLS connection to the NATS server at {servers}: {text}")
        }
        _ => format!(
            "no NATS server answers at {servers}: {text}; is it running? start one with \
             `nats-server -js`"
        ),
    }
}

/// The text of an error, with its sources if they add anything.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// The shortest time that a request gets, even if less is left: enough for an answer that is on its
/// way.
const LEAST: Duration = Duration::from_millis(250);

/// Returns whether repeating may help: the cluster is electing a leader, or the store is being
/// moved.
fn is_passing(code: u64) -> bool {
    const NOT_AVAILABLE: u64 = 10008;
    const NO_QUORUM: u64 = 10009;
    const OFFLINE: u64 = 10118;
    matches!(code, NOT_AVAILABLE | NO_QUORUM | OFFLINE)
}

/// Returns whether a cluster is storing another write of the same subject, or the same message.
/// That may be an earlier try of this request. Servers before 2.11 do not report this.
fn is_in_flight(code: u64) -> bool {
    const SAME_MESSAGE: u64 = 10158;
    const SAME_SUBJECT: u64 = 10164;
    matches!(code, SAME_MESSAGE | SAME_SUBJECT)
}

fn answer<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    let strange = |error: serde_json::Error| {
        let text = String::from_utf8_lossy(payload);
        Refusal::Silent(format!("{error} in its answer {text:?}"))
    };
    let failed: Failed = serde_json::from_slice(payload).map_err(strange)?;
    if let Some(said) = failed.error {
        return Err(Refusal::Error {
            code: said.err_code,
            text: said.description,
        });
    }
    serde_json::from_slice(payload).map_err(strange)
}
