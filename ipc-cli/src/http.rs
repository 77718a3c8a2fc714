//! A small HTTP server for figures: one request for each connection.
//!
//! A slow client does not delay the others. A connection ends when its time is up, and the oldest
//! one ends when there are too many. A bounded number of threads computes the answers, so a queue
//! that does not answer delays only the requests for that queue.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::exit::Exit;
use crate::signals::EndSignals;

/// Maximum number of connections at a time. One more ends the oldest.
const CONNECTIONS: usize = 64;
/// Number of threads that compute answers.
const THREADS: usize = 16;
/// Time within which a client must have sent the head of its request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Maximum time of a connection. It is long because a served queue may be slow to answer.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);
/// Maximum size of the head of a request.
const HEAD_BYTES: usize = 16 * 1024;

pub type Answer = Response<Full<Bytes>>;

/// A request. Its body, if it has one, is not read.
pub struct Asked {
    head: Parts,
    /// The address of the client.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub served: SocketAddr,
}

impl Asked {
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Returns the path, without the query after a question mark.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Returns the value of a header; empty if it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        let value = self.head.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Returns `true` if `Host` is a name of this server.
    ///
    /// Another site can point one of its own host names at the address of this machine, and then
    /// read what is served here (DNS rebinding). The browser sends that name in `Host`. An IP
    /// address and `localhost` are safe, because no site can use them as its name. `names` are
    /// further names of this server.
    pub fn is_host_ours(&self, names: &[String]) -> bool {
        let host = self.header("Host");
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next(),
            None => host.split(':').next(),
        };
        let is_it = |name: &str| {
            let is_ours = |ours: &String| ours.eq_ignore_ascii_case(name);
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<IpAddr>().is_ok()
                || names.iter().any(is_ours)
        };
        name.is_some_and(is_it)
    }
}

/// Returns an answer with this body.
pub fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    set(&mut answer, header::CONTENT_TYPE.as_str(), content_type);
    answer
}

/// Returns an answer that is one line of text.
pub fn text(status: u16, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// Sets a header, whose name is in lower case.
pub fn set(answer: &mut Answer, name: &'static str, value: &'static str) {
    let (name, value) = (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    answer.headers_mut().insert(name, value);
}

pub struct Server {
    listener: TcpListener,
    at: SocketAddr,
}

impl Server {
    pub fn listen(at: SocketAddr) -> Result<Self> {
        let listen = || {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            Ok(Self { listener, at })
        };
        listen().map_err(|error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    ": another program listens there; stop it, or give another port, or port 0 for \
                     a free one"
                }
                io::ErrorKind::PermissionDenied => ": give a port above 1023",
                io::ErrorKind::AddrNotAvailable => ": this machine does not have this address",
                _ => "",
            };
            Exit::Failed.error(format!("listening at {at}: {error}{advice}"))
        })
    }

    /// Returns the address, with the port that was chosen.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Answers requests until a signal asks the command to end.
    pub fn serve<F>(self, end: &EndSignals, answer: F) -> Result<()>
    where
        F: Fn(&Asked) -> Answer + Send + Sync + 'static,
    {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(THREADS)
            .build()
            .context("starting the server")?;
        let ended = runtime.block_on(self.accept(end, Arc::new(answer)));
        // Do not wait for a queue that does not answer.
        runtime.shutdown_background();
        ended
    }

    async fn accept<F>(self, end: &EndSignals, answer: Arc<F>) -> Result<()>
    where
        F: Fn(&Asked) -> Answer + Send + Sync + 'static,
    {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let mut connections = VecDeque::new();
        while !end.is_asked() {
            match timeout(SLICE, listener.accept()).await {
                Err(_elapsed) => {}
                // For example, no descriptor is free. Connections that end free some.
                Ok(Err(_)) => sleep(SLICE).await,
                Ok(Ok((stream, peer))) => {
                    make_room(&mut connections);
                    let answer = Arc::clone(&answer);
                    let task = tokio::spawn(connection(stream, peer, answer));
                    connections.push_back(task.abort_handle());
                }
            }
        }
        Ok(())
    }
}

/// Ends the oldest connection if there are too many. A client that sends a request is answered at
/// once, so the oldest one is a client that does not send, or does not read.
fn make_room(connections: &mut VecDeque<AbortHandle>) {
    connections.retain(|connection| !connection.is_finished());
    if connections.len() >= CONNECTIONS
        && let Some(oldest) = connections.pop_front()
    {
        oldest.abort();
    }
}

/// An error of a client that has left is ignored; the next client may be another one.
async fn connection<F>(stream: TcpStream, peer: SocketAddr, answer: Arc<F>)
where
    F: Fn(&Asked) -> Answer + Send + Sync + 'static,
{
    let Ok(served) = stream.local_addr() else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (head, _body) = request.into_parts();
        let asked = Asked { head, peer, served };
        let answer = Arc::clone(&answer);
        async move {
            let answered = spawn_blocking(move || answer(&asked)).await;
            let answered = answered.unwrap_or_else(|_| text(500, "the answer can't be made"));
            Ok::<_, Infallible>(answered)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(ALL_WITHIN, connection).await;
}
