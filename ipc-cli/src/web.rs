//! `web`: the figures of `top` in a browser.
//!
//! Threads take samples of the queues, as `top` does. The server answers from the last samples and
//! from the history of the last hour. It reads a queue directly only when a page shows that queue
//! alone. The page is in `web/page`; it is part of this program and needs nothing else.

mod api;
mod history;
mod peer;
mod state;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::format;
use crate::http::Server;
use crate::show::{self, Show};
use crate::signals::EndSignals;
use crate::top::watch::{Scope, Watch};
use api::{Page, Users};
use state::State;

/// Serves until a signal asks the command to end.
pub fn web(what: &cli::Web, show: &Show) -> Result<()> {
    check_remote(what)?;
    for address in what.what.iter().filter(|one| one.contains(':')) {
        address::shared(address)?;
    }
    let scopes = scopes(&what.what)?;
    let server = Server::listen(what.listen)?;
    let end = EndSignals::listen()?;
    let page = Page {
        state: Arc::new(State::new(scopes.iter().map(address_of))),
        names: what.hosts.clone(),
        token: what.allow_actions.then(token).transpose()?,
        users: match what.any_user || what.allow_remote {
            true => Users::Any,
            false => Users::Owner,
        },
    };
    for (number, scope) in scopes.into_iter().enumerate() {
        let (state, every) = (Arc::clone(&page.state), what.every);
        let mut watch = Watch::new(scope);
        let sample = move || {
            loop {
                state.take_sample(number, &mut watch, now_ms);
                thread::sleep(every);
            }
        };
        // The thread only reads, so it may end with the process.
        let thread = thread::Builder::new().name("ipc-web-sample".to_owned());
        thread.spawn(sample).context("starting to take samples")?;
    }
    say(what, server.at(), page.token.as_deref(), show)?;
    server.serve(&end, move |asked| page.answer(asked))
}

/// Prints the address of the page. The token follows a `#`, because a browser never sends that
/// part.
fn say(what: &cli::Web, at: SocketAddr, token: Option<&str>, show: &Show) -> Result<()> {
    if what.allow_remote {
        show::note(
            "nothing is encrypted: anyone who can see the traffic sees the figures and the token",
        );
    }
    let serves = format!("http://{at}/");
    let url = match token {
        Some(token) => format!("{serves}#token={token}"),
        None => serves.clone(),
    };
    let pid = std::process::id();
    let said = json!({ "serves": serves, "url": url, "actions": token.is_some(), "pid": pid });
    show.say(&said, || url.clone());
    // A program that waits for this line would otherwise wait forever.
    show.finish()
}

fn check_remote(what: &cli::Web) -> Result<()> {
    let at = what.listen;
    if at.ip().is_loopback() || what.allow_remote {
        return Ok(());
    }
    Err(Exit::Refused.error(format!(
        "{at} can be reached from other machines, nothing is encrypted, and there is no login: \
         listen at 127.0.0.1 and come through ssh -L {port}:127.0.0.1:{port}, or give \
         --allow-remote",
        port = at.port()
    )))
}

/// Returns the scopes of the threads that take samples. Each address has its own thread, because
/// its server may not answer.
fn scopes(typed: &[String]) -> Result<Vec<Scope>> {
    Ok(match Scope::of(typed)? {
        Scope::Queues(mut addresses) => {
            addresses.sort_unstable();
            addresses.dedup();
            let each = addresses.into_iter();
            each.map(|address| Scope::Queues(vec![address])).collect()
        }
        scope => vec![scope],
    })
}

fn address_of(scope: &Scope) -> Option<String> {
    match scope {
        Scope::Queues(addresses) => addresses.first().cloned(),
        Scope::All | Scope::Namespace(_) => None,
    }
}

/// Returns 128 random bits in hexadecimal.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    let mut random = File::open("/dev/urandom").context("making a token")?;
    random.read_exact(&mut bytes).context("making a token")?;
    Ok(format::hex(&bytes))
}

/// Returns the milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
