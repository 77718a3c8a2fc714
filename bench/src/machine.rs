//! The machine and the software versions of a run.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The peers whose versions are reported, by their names in the bench's lock file.
const PEERS: [&str; 7] = [
    "iceoryx2",
    "ipc-channel",
    "cloudtoid-interprocess",
    "shaq",
    "ringfire",
    "crossbeam-channel",
    "flume",
];
const PROGRAMS: [&str; 4] = ["rustc", "python3", "redis-server", "nats-server"];
const LOCK: &str = include_str!("../Cargo.lock");

/// Returns the facts, each with its name.
pub fn describe(took: Duration) -> Vec<(String, String)> {
    let mut facts = vec![
        ("processor".to_owned(), processor()),
        ("kernel".to_owned(), kernel()),
        ("command".to_owned(), command()),
        ("time".to_owned(), format!("{} s", took.as_secs())),
    ];
    let programs = PROGRAMS.map(|name| (name.to_owned(), version(name)));
    facts.extend(programs);
    facts.extend(PEERS.map(|name| (name.to_owned(), locked(name))));
    facts
}

fn processor() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = value("model name").unwrap_or_else(|| "unknown".to_owned());
    let kind = if text.contains(" hypervisor") {
        "virtual cores"
    } else {
        "cores"
    };
    format!("{name}, {cores} {kind}")
}

fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let number = release.trim().split('-').next().unwrap_or_default();
    format!("Linux {number}")
}

fn command() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask bench {}", args.join(" "))
        .trim()
        .to_owned()
}

fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let first = |said: String| said.lines().next().unwrap_or_default().to_owned();
    said.map_or_else(|_| "not there".to_owned(), first)
}

fn locked(name: &str) -> String {
    let line = format!("name = \"{name}\"\nversion = \"");
    let rest = LOCK.split_once(&line).map(|(_, rest)| rest);
    let version = rest.and_then(|rest| rest.split('"').next());
    version.unwrap_or("unknown").to_owned()
}
