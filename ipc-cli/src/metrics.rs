//! `metrics`: the figures of queues for a scraper, printed or served over HTTP.

use anyhow::Result;
use hyper::Method;
use serde_json::json;

use crate::cli;
use crate::exit::{self, Exit};
use crate::http::{self, Answer, Asked, Server};
use crate::prometheus::{self, Format};
use crate::show::Show;
use crate::signals::EndSignals;

pub fn metrics(what: &cli::Metrics, show: &Show) -> Result<()> {
    let Some(at) = what.listen else {
        if show.is_json() {
            return Err(Exit::Usage.error(
                "metrics prints Prometheus' or OpenMetrics' format, never JSON: ipc ls --json has \
                 the same counters",
            ));
        }
        let format = match what.openmetrics {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        };
        let (text, failed) = prometheus::metrics(&what.queues, format)?;
        show.line(&text);
        return failed.map_or(Ok(()), Err);
    };
    let server = Server::listen(at)?;
    let end = EndSignals::listen()?;
    let served = server.at();
    let said = json!({ "serves": format!("http://{served}/metrics"), "pid": std::process::id() });
    show.say(&said, || format!("http://{served}/metrics"));
    // A program that waits for this line would otherwise wait forever.
    show.finish()?;
    let queues = what.queues.clone();
    server.serve(&end, move |asked| answer(asked, &queues))
}

fn answer(asked: &Asked, queues: &[String]) -> Answer {
    // A scraper on another machine may know this one by any name.
    let is_allowed = !asked.served.ip().is_loopback() || asked.is_host_ours(&[]);
    let is_read = [Method::GET, Method::HEAD].contains(asked.method());
    let refused = match (is_allowed, is_read, asked.path()) {
        (false, ..) => {
            let why = "this name is not served here: use the address that ipc metrics printed";
            Some((421, why))
        }
        (_, false, _) => Some((405, "only GET")),
        (.., "/metrics") => None,
        _ => Some((404, "see /metrics")),
    };
    if let Some((status, why)) = refused {
        return http::text(status, why);
    }
    let format = match asked
        .header("Accept")
        .contains("application/openmetrics-text")
    {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    };
    match prometheus::metrics(queues, format) {
        // A queue that can't be asked shows up as a figure, not as an error.
        Ok((text, _)) => http::answer(200, format.content_type(), text),
        Err(error) => http::text(500, &exit::in_one_line(&error)),
    }
}
