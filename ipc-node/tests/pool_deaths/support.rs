//! Handlers, pools, and ways of waiting.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipc_node::pool::{Context, Handlers, Pool, PoolBuilder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use crate::waiting::{PATIENCE, until, wait};

/// Kills this process with SIGKILL.
fn die() -> ! {
    kill(Pid::this(), Signal::SIGKILL).expect("it is ours to send");
    loop {
        thread::park();
    }
}

pub fn handlers() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.add("length", |bytes: Vec<u8>, context: &Context<'_>| {
        Ok::<_, String>((bytes.len(), context.attempt()))
    });
    handlers.add("die", |_: Vec<u8>, _: &Context<'_>| -> Result<(), String> {
        die()
    });
    // Dies until the file exists.
    handlers.add("die unless", |file: String, _: &Context<'_>| {
        if !Path::new(&file).exists() {
            die();
        }
        Ok::<_, String>(())
    });
    add_handlers_with_children(&mut handlers);
    // Acts in each attempt as its entry of the list says, and counts its runs in the file.
    handlers.add(
        "as planned",
        |(file, plan): (String, Vec<String>), context: &Context<'_>| {
            count_in(Path::new(&file));
            let attempt = context.attempt();
            match plan.get(usize::from(attempt) - 1).map(String::as_str) {
                Some("error") => Err("the database is away".to_owned()),
                Some("final") => {
                    context.do_not_retry();
                    Err("no such image".to_owned())
                }
                Some("panic") => panic!("out of range"),
                Some("die") => die(),
                _ => Ok(attempt),
            }
        },
    );
    // Fails until the file exists; counts its runs in another file.
    handlers.add("need", |(file, runs): (String, String), _: &Context<'_>| {
        count_in(Path::new(&runs));
        match Path::new(&file).exists() {
            true => Ok(()),
            false => Err("the database is away"),
        }
    });
    // Writes its process number into the file and stays until the file is gone.
    handlers.add("stay", |file: String, _: &Context<'_>| {
        say_in(Path::new(&file), std::process::id());
        while Path::new(&file).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok::<_, String>(())
    });
    handlers
}

fn add_handlers_with_children(handlers: &mut Handlers) {
    // Starts a program that outlives it, once in each of this many workers, and returns.
    handlers.add(
        "have a child",
        |(folder, workers): (String, usize), _: &Context<'_>| {
            let child = Command::new("sleep").arg("1000").spawn();
            let child = child.map_err(|error| error.to_string())?.id();
            let folder = Path::new(&folder);
            say_in(&folder.join(format!("{child}.child")), child);
            while numbers_in(folder, "child").len() < workers {
                thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, String>(())
        },
    );
    // Leaves two programs behind without a parent: one ends at once, and one continues.
    handlers.add("leave orphans", |(): (), _: &Context<'_>| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "(true &) ; (sleep 1000 &)"]);
        shell.status().map(|status| status.success())
    });
    // Starts a program that outlives it, reports the numbers of both processes, and stays.
    handlers.add(
        "stay with a child",
        |(child, busy): (String, String), _: &Context<'_>| {
            let started = Command::new("sleep").arg("1000").spawn();
            let started = started.map_err(|error| error.to_string())?;
            say_in(Path::new(&child), started.id());
            say_in(Path::new(&busy), std::process::id());
            while Path::new(&busy).exists() {
                thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, String>(())
        },
    );
}

#[test]
fn worker() {
    handlers().work_if_worker();
}

/// Returns a command that runs this program as one of its tests.
pub fn program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

pub fn pool(workers: usize) -> PoolBuilder {
    Pool::builder()
        .workers(workers)
        .command(program("support::worker"))
}

/// Writes a number to a file, whole or not at all.
pub fn say_in(file: &Path, number: u32) {
    let draft = file.with_extension("draft");
    fs::write(&draft, number.to_string()).expect("the folder is there");
    fs::rename(draft, file).expect("the folder is there");
}

fn count_in(file: &Path) {
    let file = fs::File::options().append(true).create(true).open(file);
    let written = file.and_then(|mut file| file.write_all(b"."));
    written.expect("the folder is there");
}

/// Returns how often the handler that counts in this file ran.
pub fn runs_in(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}

/// Returns the number in a file, once the file exists.
pub fn said_in(file: &Path) -> i32 {
    let mut number = None;
    until("it says its number", || {
        let text = fs::read_to_string(file);
        number = text.ok().and_then(|text| text.parse().ok());
        number.is_some()
    });
    number.expect("just seen")
}

/// Returns the numbers in those files of a folder whose names end with `kind`.
pub fn numbers_in(folder: &Path, kind: &str) -> Vec<i32> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let paths = entries.flatten().map(|entry| entry.path());
    let wanted = paths.filter(|path| path.extension().is_some_and(|found| found == kind));
    wanted.map(|path| said_in(&path)).collect()
}

/// Returns `true` if the process has ended, even if it was not reaped.
pub fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Returns `None`, with a note, if PID namespaces are forbidden.
pub fn in_pid_namespace(inner: &Command) -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        command
    };
    if !unshare()
        .arg("true")
        .output()
        .is_ok_and(|made| made.status.success())
    {
        eprintln!("skipped: no PID namespace can be made here");
        return None;
    }
    let mut command = unshare();
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap());
    }
    Some(command)
}
