//! The command `ipc`.
//!
//! Commands that only look use [`ipc_queue::shm::Inspector`], which can't disturb a queue; the
//! others open queues as any program does. Each command returns a `Result`; `exit.rs` turns errors
//! into exit codes.
#![forbid(unsafe_code)]

mod action;
mod address;
mod advice;
mod bridge;
mod check;
mod cli;
mod complete;
mod control;
mod create;
mod dlq;
mod doctor;
mod exchange;
mod exit;
mod format;
mod headers;
mod held;
mod http;
mod json;
mod ls;
mod man;
mod metrics;
mod nodes;
mod object;
mod payload;
mod peek;
mod prometheus;
mod recv;
mod remove;
mod secrets;
mod select;
mod send;
mod serve;
mod settings;
mod show;
mod signals;
mod snapshot;
mod stat;
mod table;
mod tail;
mod terminal;
mod top;
mod web;
mod work;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Dlq};
use exit::Exit;
use show::Show;

fn main() -> ExitCode {
    complete::answer(Cli::command);
    ipc_nats::register();
    // A check that can't find out is neither a warning nor critical.
    let is_check = std::env::args_os().nth(1).is_some_and(|arg| arg == "check");
    let ended = match Cli::try_parse() {
        Ok(cli) => {
            let show = Show::new(cli.json);
            if let Some(time) = cli.answer_timeout {
                address::set_answer_timeout(time);
            }
            run(cli.command, &show).and_then(|()| show.finish())
        }
        Err(usage) if usage.use_stderr() && is_check => {
            let _ = usage.print();
            return ExitCode::from(check::UNKNOWN);
        }
        Err(usage) if usage.use_stderr() => usage.exit(),
        Err(help) => print(&help.render().to_string()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::to_stderr(&format!("error: {}\n", exit::in_one_line(&error)));
            ExitCode::from(match Exit::of(&error) {
                Exit::Check(code) => code,
                _ if is_check => check::UNKNOWN,
                exit => exit.code(),
            })
        }
    }
}

fn run(command: Command, show: &Show) -> Result<()> {
    match command {
        Command::Ls { what } => ls::ls(&what, show),
        Command::Stat { queue, prometheus } if prometheus => prometheus::stat(&queue, show),
        Command::Stat { queue, .. } => stat::stat(&queue, show),
        Command::Metrics(what) => metrics::metrics(&what, show),
        Command::Check(what) => check::check(&what, show),
        Command::Top {
            what,
            every,
            once,
            width,
            svg,
        } => top::top(&what, every, once, width, svg, show),
        Command::Web(what) => web::web(&what, show),
        Command::Create(create) => create::create(&create, show),
        Command::Send(send) => send::send(&send, show),
        Command::Recv(recv) => recv::recv(&recv, show),
        Command::Work(what) => work::work(&what, show),
        Command::WorkGuard { folder } => work::run_guard(folder),
        Command::Peek { queue, count } => peek::peek(&queue, count, show),
        Command::Bridge(what) => bridge::bridge(&what, show),
        Command::Tail(what) => tail::tail(&what, show),
        Command::Export { queue, selection } => exchange::export(&queue, &selection, show),
        Command::Import {
            queue,
            create,
            timeout,
        } => send::import(&queue, create, timeout, show),
        Command::Delete(what) => exchange::delete(&what, show),
        Command::Revoke(what) => exchange::revoke(&what, show),
        Command::Pause { queue } => control::pause(&queue, show),
        Command::Resume { queue, give_up } if give_up => snapshot::give_up(&queue, show),
        Command::Resume { queue, .. } => control::resume(&queue, show),
        Command::Drain(drain) => control::drain(&drain, show),
        Command::Reopen { queue } => control::reopen(&queue, show),
        Command::Purge { queue } => control::purge(&queue, show),
        Command::Save(what) => snapshot::save(&what, show),
        Command::Restore(what) => snapshot::restore(&what, show),
        Command::Move(what) if what.selection.is_given() => exchange::move_some(&what, show),
        Command::Move(what) => snapshot::move_queue(&what, show),
        Command::Forget(what) => snapshot::forget(&what, show),
        Command::Dlq(Dlq::Ls { queue }) => dlq::ls(&queue, show),
        Command::Dlq(Dlq::Show { queue, letter }) => dlq::show(&queue, &letter, show),
        Command::Dlq(Dlq::Requeue(which)) => dlq::requeue(&which, show),
        Command::Dlq(Dlq::Drop(which)) => dlq::discard(&which, show),
        Command::Nodes { namespace, timeout } => nodes::nodes(namespace.as_deref(), timeout, show),
        Command::Doctor {
            queues,
            repair,
            quiet,
        } => doctor::doctor(&queues, repair, quiet, show),
        Command::Rm { queues, force } => remove::rm(&queues, force, show),
        Command::Serve(serve) => serve::serve(&serve, show),
        Command::Completions { shell } => print(&complete::script(shell)?),
        Command::Man { out } => man::man(&out, show),
    }
}

/// Prints output that is never JSON.
fn print(text: &str) -> Result<()> {
    let show = Show::new(false);
    show.line(text);
    show.finish()
}
