//! NATS servers for a run: the given ones, or one of its own, on a free port of 127.0.0.1.
//!
//! The run's own server is killed with the run, and by the kernel if the run is killed. Its store
//! is in the run's folder, and is removed with the folder.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getppid};
use serde::Deserialize;

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    url: String,
}

/// The server's record of its ports.
#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

const PROGRAM: &str = "nats-server";
/// The subcommand that makes this program become the server.
pub const COMMAND: &str = "nats-server";
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// The file in its folder with its standard error.
const LOG: &str = "log";

impl Server {
    /// Starts a server that keeps its files in `folder`, and waits until it listens.
    ///
    /// # Errors
    /// When there is no such program, or it does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        ensure!(
            is_installed(),
            "there is no {PROGRAM} on the path: install it (Debian and Ubuntu: apt-get install {PROGRAM}; else https://nats.io/download), or name a running one, with JetStream (-js), by --at nats://HOST:PORT"
        );
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let log = File::create(folder.join(LOG)).context("creating a NATS server's log")?;
        let child = Command::new("/proc/self/exe")
            .args([COMMAND, &std::process::id().to_string()])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C must not reach the server.
            .process_group(0)
            .spawn()
            .context("starting a NATS server")?;
        let mut server = Self {
            child,
            url: String::new(),
        };
        server.url = server.await_url(folder)?;
        Ok(server)
    }

    fn await_url(&mut self, folder: &Path) -> Result<String> {
        let ports = folder.join(format!("{PROGRAM}_{}.ports", self.child.id()));
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(url) = listening(&ports) {
                return Ok(url);
            }
            let said = || fs::read_to_string(folder.join(LOG)).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("{PROGRAM} did not start ({status}): {}", said().trim());
            }
            if Instant::now() >= deadline {
                let said = said();
                bail!(
                    "{PROGRAM} did not listen within {STARTS_WITHIN:?}: {}",
                    said.trim()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // The process is reaped later, on drop.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let how = match waitid(Id::Pid(pid), look) {
            Ok(WaitStatus::StillAlive) => return Ok(()),
            Ok(WaitStatus::Signaled(_, signal, _)) => signal.to_string(),
            other => format!("{other:?}"),
        };
        bail!("the run's own {PROGRAM} ended ({how}), and all tasks with it: start the run again")
    }

    /// The address of the pool of that name on this server. It is valid as long as the server
    /// lives.
    #[must_use]
    pub fn address(&self, pool: &str) -> String {
        format!("{}/{pool}?storage=memory", self.url)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_installed() -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(PROGRAM).is_file())
}

fn listening(ports: &Path) -> Option<String> {
    let text = fs::read_to_string(ports).ok()?;
    let ports: Ports = serde_json::from_str(&text).ok()?;
    ports.nats.into_iter().next()
}

/// Becomes the server, which ends with the process that started it.
///
/// # Errors
/// When that process has ended already, or there is no such program.
pub fn become_server(parent: i32, folder: &Path) -> Result<()> {
    // The signal comes when the *thread* that started this process ends: it is the main one.
    prctl::set_pdeathsig(Signal::SIGKILL).context("arming the parent-death signal")?;
    ensure!(getppid().as_raw() == parent, "the run has ended already");
    let error = Command::new(PROGRAM)
        .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
        .arg(folder)
        .arg("--ports_file_dir")
        .arg(folder)
        .exec();
    Err(error).with_context(|| format!("starting {PROGRAM}"))
}

/// The address of the pool of that name at these servers:
/// `nats://HOST[:PORT][,HOST[:PORT]][?OPTIONS]`.
///
/// # Errors
/// When `servers` is not an address of servers.
pub fn address(servers: &str, pool: &str) -> Result<String> {
    let (hosts, options) = servers.split_at(servers.find('?').unwrap_or(servers.len()));
    let address = format!("{}/{pool}{options}", hosts.trim_end_matches('/'));
    let rest = address.strip_prefix("nats:");
    let rest = rest.with_context(|| format!("{:?} is not nats://HOST[:PORT]", shown(servers)))?;
    check(rest)?;
    Ok(address)
}

#[cfg(feature = "nats")]
fn check(rest: &str) -> Result<()> {
    ipc_nats::NatsAddress::parse(rest)?;
    Ok(())
}

#[cfg(not(feature = "nats"))]
fn check(_: &str) -> Result<()> {
    bail!("this build has no NATS client: build ipc-demo with --features nats")
}

/// An address as it may be displayed, for typing elsewhere: without the login, which must stay
/// private.
#[must_use]
pub fn shown(address: &str) -> String {
    let (place, options) = address.split_at(address.find('?').unwrap_or(address.len()));
    let place = ipc_queue::without_secrets(place).replace("…@", "");
    format!("{place}{options}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_behind_its_servers_and_before_their_options() {
        for (servers, expected) in [
            ("nats://one", "nats://one/run"),
            ("nats://one:4222/", "nats://one:4222/run"),
            (
                "nats://one,two:1?replicas=3",
                "nats://one,two:1/run?replicas=3",
            ),
        ] {
            assert_eq!(address(servers, "run").unwrap(), expected);
        }
    }

    #[test]
    fn invalid_servers_are_refused() {
        for servers in ["", "one:4222", "shm:one", "nats://one?replicas=9"] {
            assert!(address(servers, "run").is_err(), "{servers}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let address = "nats://me:secret@one,two:1/run?replicas=3";
        assert_eq!(shown(address), "nats://one,two:1/run?replicas=3");
    }
}
