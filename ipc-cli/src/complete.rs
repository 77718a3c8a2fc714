//! Shell completion of what only the machine knows: names of queues and of namespaces.
//!
//! `ipc completions SHELL` prints a script. The shell then runs `ipc` with the variable
//! [`VARIABLE`] at each completion, and [`answer`] prints the candidates. Queues are mapped
//! read-only, as `ls` does. Unreadable ones are not offered.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use ipc_queue::shm::Inspector;

use crate::address;

/// The variable that the scripts set to the name of the shell.
const VARIABLE: &str = "IPC_COMPLETE";

/// Prints the candidates and ends the process, if a shell asks for them.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Returns the script that a shell reads.
pub fn script(shell: Shell) -> Result<String> {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string());
    let completer = completer.with_context(|| format!("no completions for {shell}"))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "ipc", "ipc", "ipc", &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// Completes an argument that is the address of a queue.
pub fn queues() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| queues_like(&typed.to_string_lossy()))
}

/// Completes an argument that is a namespace.
pub fn namespaces() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_string_lossy().into_owned();
        let all = address::namespaces(None).unwrap_or_default().into_iter();
        let names = all.map(|namespace| namespace.name().to_string());
        names
            .filter(|name| name.starts_with(&typed))
            .map(CompletionCandidate::new)
            .collect()
    })
}

fn queues_like(typed: &str) -> Vec<CompletionCandidate> {
    let (scheme, typed) = match typed.strip_prefix("shm:") {
        Some(name) => ("shm:", name),
        None => ("", typed),
    };
    let all = address::queues(None).unwrap_or_default().queues;
    let mut found = Vec::new();
    for (namespace, name) in all {
        let short = address::short(&namespace, &name);
        if !short.starts_with(typed) {
            continue;
        }
        let state = Inspector::open(&namespace, &name).map(|queue| {
            let stats = queue.stats();
            format!(
                "{} ready, {} held, {} dead",
                stats.ready, stats.leased, stats.dead
            )
        });
        let candidate = CompletionCandidate::new(format!("{scheme}{short}"));
        found.push(candidate.help(state.ok().map(Into::into)));
    }
    found
}
