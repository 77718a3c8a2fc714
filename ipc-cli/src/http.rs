//! A small HTTP server for figures: one request for each connection.
//!
//! No client makes others wait. A connection ends when its time is over, and the oldest one ends
//! when there are too many. Answers are made by a bounded number of threads, so that a queue which
//! does not answer delays only those who ask for it.

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

/// At once. One more ends the oldest.
const CONNECTIONS: usize = 64;
/// Threads that make answers.
const THREADS: usize = 16;
/// For a client to say what it wants.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// For a whole connection: a served queue that does not answer takes long.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);
/// For the head of a request.
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

    /// Without what follows a question mark.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The value of a header; empty if there is none, or if it is not text.
    pub fn header(&self, name: &str) -> &str {
        let value = self.head.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Whether the browser's address bar may hold what `Host` says.
    ///
    /// A page of another site can give a name of its own the address of this machine, and then read
    /// what is served here. The browser says that name. No site has an address or `localhost` for
    /// its name. `names` are further names of this server.
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

/// An answer with this body.
pub fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    set(&mut answer, header::CONTENT_TYPE.as_str(), content_type);
    answer
}

/// A line of text.
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

    /// The address with the port that was chosen.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Answers until the end is asked for.
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
        // Without waiting for a queue that does not answer.
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
                // No descriptor is free, say: ends of connections help.
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

/// A client that asks is answered in an instant. The oldest connection is one that does not ask, or
/// does not read.
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
