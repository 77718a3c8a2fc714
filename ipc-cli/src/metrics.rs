//! `metrics`: the figures of queues for a scraper, printed or served over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tiny_http::{Header, Method, Request, Response, Server};

use crate::cli;
use crate::exit::{self, Exit};
use crate::prometheus::{self, Format};
use crate::show::Show;
use crate::signals::EndSignals;

/// Time between two checks whether to stop.
const SLICE: Duration = Duration::from_millis(100);

pub fn metrics(what: &cli::Metrics, show: &Show) -> Result<()> {
    let Some(at) = what.listen else {
        let format = match what.openmetrics {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        };
        let (text, failed) = prometheus::metrics(&what.queues, format)?;
        show.line(&text);
        return failed.map_or(Ok(()), Err);
    };
    let server = listen(at)?;
    let end = EndSignals::listen()?;
    let served = server.server_addr().to_ip().unwrap_or(at);
    let said = json!({ "serves": format!("http://{served}/metrics"), "pid": std::process::id() });
    show.say(&said, || format!("http://{served}/metrics"));
    // A program that waits for this line would otherwise wait forever.
    show.finish()?;
    while !end.is_asked() {
        if let Some(request) = server.recv_timeout(SLICE)? {
            answer(request, served, &what.queues);
        }
    }
    Ok(())
}

fn listen(at: SocketAddr) -> Result<Server> {
    Server::http(at).map_err(|error| Exit::Failed.error(format!("listening at {at}: {error}")))
}

/// An error of a client that has left is ignored; the next client may be another one.
fn answer(request: Request, served: SocketAddr, queues: &[String]) {
    let is_read = matches!(request.method(), Method::Get | Method::Head);
    let path = request.url().split('?').next().unwrap_or_default();
    let refused = match (is_allowed(&request, served), is_read, path) {
        (false, ..) => Some((421, "this name is not served here: use the address")),
        (_, false, _) => Some((405, "only GET")),
        (.., "/metrics") => None,
        _ => Some((404, "see /metrics")),
    };
    if let Some((status, why)) = refused {
        let _ = request.respond(Response::from_string(why).with_status_code(status));
        return;
    }
    let format = match header(&request, "Accept").contains("application/openmetrics-text") {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    };
    let response = match prometheus::metrics(queues, format) {
        // A queue that can't be asked shows up as a figure, not as an error.
        Ok((text, _)) => {
            let response = Response::from_string(text);
            match Header::from_bytes("Content-Type", format.content_type()) {
                Ok(header) => response.with_header(header),
                Err(()) => response,
            }
        }
        Err(error) => Response::from_string(exit::in_one_line(&error)).with_status_code(500),
    };
    let _ = request.respond(response);
}

/// Another site can point one of its own host names at the address of this machine, and then read
/// what is served here (DNS rebinding). The browser sends that name, so at a loopback address only
/// IP addresses and `localhost` are accepted.
fn is_allowed(request: &Request, served: SocketAddr) -> bool {
    if !served.ip().is_loopback() {
        return true;
    }
    let host = header(request, "Host");
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    name.is_some_and(|name| name == "localhost" || name.parse::<IpAddr>().is_ok())
}

fn header(request: &Request, name: &'static str) -> String {
    let found = request
        .headers()
        .iter()
        .find(|header| header.field.equiv(name));
    found.map_or_else(String::new, |header| header.value.to_string())
}
