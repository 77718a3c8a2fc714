//! The answers: the page, the figures, and the actions.
//!
//! Each request is checked in this order: the user, the name of this server, the site it comes
//! from, the method, the token. The answer to a request that fails a check contains nothing of a
//! queue.

use std::sync::Arc;

use anyhow::{Error, Result};
use hyper::Method;
use ipc_queue::Address;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};

use super::state::State;
use super::{now_ms, peer};
use crate::action::Action;
use crate::address;
use crate::dlq;
use crate::exit::{self, Exit};
use crate::http::{self, Answer, Asked};
use crate::secrets;
use crate::stat;

pub struct Page {
    pub state: Arc<State>,
    /// Further names of this server.
    pub names: Vec<String>,
    /// The token that a request must contain to change a queue; `None` if no request may.
    pub token: Option<String>,
    pub users: Users,
}

/// The users of this machine whose requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    Any,
    /// The user who runs this program, and root.
    Owner,
}

/// The files of the page: path, type, content.
const FILES: [(&str, &str, &str); 5] = [
    ("/", HTML, include_str!("page/index.html")),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page/page.css"),
    ),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/plot.js", SCRIPT, include_str!("page/plot.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

/// Headers of every answer. The page loads only its own files, no other site may show it in a
/// frame or load a part of it, and its scripts can't turn text into HTML.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Maximum number of dead letters in one answer; the youngest are shown.
const LETTERS: usize = 100;

/// A request that is refused: status and reason.
struct Refused(u16, String);

impl Page {
    pub fn answer(&self, asked: &Asked) -> Answer {
        let mut answer = match self.check(asked) {
            Ok(()) => self.find(asked),
            Err(refused) => refuse(&refused),
        };
        for (name, value) in HEADERS {
            http::set(&mut answer, name, value);
        }
        if answer.status() == 405 {
            let allowed = match self.token {
                Some(_) => "GET, HEAD, POST",
                None => "GET, HEAD",
            };
            http::set(&mut answer, "allow", allowed);
        }
        answer
    }

    fn check(&self, asked: &Asked) -> Result<(), Refused> {
        self.check_user(asked)?;
        if !asked.is_host_ours(&self.names) {
            let why = "this name is not served here: use the address that ipc web printed, or \
                       start it with --allow-host NAME";
            return Err(Refused(421, why.to_owned()));
        }
        // A link on another site may open the page itself, which reveals nothing to that site.
        let is_data = asked.path().starts_with("/api/");
        let from = asked.header("Sec-Fetch-Site");
        if is_data && !["", "same-origin", "none"].contains(&from) {
            return Err(Refused(403, format!("this request is {from}")));
        }
        let is_read = [Method::GET, Method::HEAD].contains(asked.method());
        match (is_read, asked.method() == Method::POST, &self.token) {
            (true, ..) => Ok(()),
            (_, true, Some(token)) => check_action(asked, token),
            (_, true, None) => {
                let why = "this page only shows: ipc web --allow-actions lets it act";
                Err(Refused(405, why.to_owned()))
            }
            _ => Err(Refused(405, "only GET".to_owned())),
        }
    }

    fn check_user(&self, asked: &Asked) -> Result<(), Refused> {
        if self.users == Users::Any {
            return Ok(());
        }
        let ours = nix::unistd::geteuid().as_raw();
        match peer::user(asked.peer, asked.served) {
            Some(user) if user == ours || user == 0 => Ok(()),
            user => {
                let user = user.map_or("an unknown user".to_owned(), |user| format!("user {user}"));
                let why = format!(
                    "user {ours} started this page, and {user} asks: start one of your own, or \
                     start this one with --any-user"
                );
                Err(Refused(403, why))
            }
        }
    }

    fn find(&self, asked: &Asked) -> Answer {
        let path = asked.path();
        if asked.method() == Method::POST {
            return self.act(path);
        }
        // The page that shows one queue is the same file.
        let file = if path.starts_with("/queue/") {
            "/"
        } else {
            path
        };
        if let Some((_, content_type, content)) = FILES.iter().find(|(path, ..)| *path == file) {
            return http::answer(200, content_type, *content);
        }
        let found = match parts(path) {
            Some(("queues", "")) => {
                let mut queues = self.state.queues(now_ms());
                queues["actions"] = self.token.is_some().into();
                Ok(Ok(queues))
            }
            Some(("queues", name)) => self.ask(name, stat::json),
            Some(("dead", name)) => self.ask(name, |queue| {
                Ok(Value::Array(dlq::excerpts(queue, LETTERS)?))
            }),
            Some(("history", name)) => self.known(name).map(|address| {
                let history = self.state.history(&address, now_ms());
                history.ok_or_else(|| Exit::NotThere.error(format!("{name} has no history yet")))
            }),
            _ => Err(Refused(404, "see / and /api/queues".to_owned())),
        };
        answer(found)
    }

    fn act(&self, path: &str) -> Answer {
        let (action, name) = match parts(path) {
            Some(("pause", name)) => (Action::Pause, name),
            Some(("resume", name)) => (Action::Resume, name),
            Some(("requeue", name)) => (Action::Requeue, name),
            _ => return refuse(&Refused(404, "pause, resume or requeue a queue".to_owned())),
        };
        let done = self.ask(name, |queue| Ok(json!({ "done": action.act(queue)? })));
        answer(done)
    }

    fn known(&self, encoded: &str) -> Result<String, Refused> {
        let name = percent_decode_str(encoded).decode_utf8();
        let known = name.ok().and_then(|name| self.state.address(&name));
        known.ok_or_else(|| Refused(404, "no queue of this name is watched here".to_owned()))
    }

    /// Reads or changes a queue now, instead of answering from the samples.
    fn ask(
        &self,
        encoded: &str,
        ask: impl FnOnce(&str) -> Result<Value>,
    ) -> Result<Result<Value>, Refused> {
        let queue = self.known(encoded)?;
        let is_served = !matches!(address::shared(&queue), Ok(Address::Shm { .. }));
        let asking = is_served.then(|| self.state.asking(&queue));
        if let Some(None) = asking {
            let why = format!("{queue} has not answered the request before this one");
            return Err(Refused(503, why));
        }
        Ok(ask(&queue))
    }
}

/// Checks where an action comes from, and its token. A page of another site can send a request, but
/// can't know the token, and the browser tells the origin of the request.
fn check_action(asked: &Asked, token: &str) -> Result<(), Refused> {
    let ours = format!("http://{}", asked.header("Host"));
    if !asked.header("Origin").eq_ignore_ascii_case(&ours) {
        let why = format!("an action must come from a page of {ours}");
        return Err(Refused(403, why));
    }
    if !is_same(asked.header("X-Ipc-Token").as_bytes(), token.as_bytes()) {
        let why = "the token is missing or wrong: open the address that ipc web printed";
        return Err(Refused(403, why.to_owned()));
    }
    Ok(())
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let pairs = given.iter().zip(token);
    given.len() == token.len() && pairs.fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

/// Splits `/api/KIND` or `/api/KIND/NAME` into the kind and the name.
fn parts(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/api/")?;
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

fn answer(found: Result<Result<Value>, Refused>) -> Answer {
    match found {
        Ok(Ok(value)) => json(200, &value),
        Ok(Err(error)) => refuse(&Refused(status(&error), exit::in_one_line(&error))),
        Err(refused) => refuse(&refused),
    }
}

fn status(error: &Error) -> u16 {
    match Exit::of(error) {
        Exit::NotThere => 404,
        Exit::Refused => 409,
        Exit::Unreachable => 502,
        _ => 500,
    }
}

fn refuse(Refused(status, why): &Refused) -> Answer {
    json(*status, &json!({ "error": why }))
}

fn json(status: u16, value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).unwrap_or_default();
    http::answer(status, JSON, secrets::without_logins(&text))
}
