//! Servers of the system that a peer needs: started for a repetition, on a free port, with a
//! separate folder.

use std::any::Any;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::Place;

/// The servers of a queue, whose processor time is measured.
pub struct Servers {
    processes: Vec<u32>,
    _kept: Vec<Box<dyn Any>>,
}

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct Server(Child);

const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// Returns why there is no such server.
pub fn missing(program: &str) -> Option<String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    (!found).then(|| format!("there is no {program}"))
}

impl Servers {
    /// `kept` ends the servers when it is dropped.
    pub fn new(processes: Vec<u32>, kept: impl Any) -> Self {
        Self {
            processes,
            _kept: vec![Box::new(kept)],
        }
    }

    /// Keeps something else until then, dropped before.
    pub fn beside(mut self, kept: Box<dyn Any>) -> Self {
        self._kept.insert(0, kept);
        self
    }

    /// Returns the processor time so far of all their threads, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        let each = self.processes.iter().map(|process| {
            let clock = clock_getcpuclockid(Pid::from_raw(process.cast_signed()))?;
            Ok(u64::try_from(
                Duration::from(clock_gettime(clock)?).as_nanos(),
            )?)
        });
        each.sum()
    }
}

impl Server {
    pub fn process(&self) -> u32 {
        self.0.id()
    }

    /// Starts `program` with the arguments for a port and a folder, and waits until it listens.
    pub fn start(
        place: &Place,
        program: &str,
        args: impl FnOnce(u16, &str) -> Vec<String>,
    ) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = place.folder.join(format!("{}-server", place.queue));
        std::fs::create_dir(&folder)?;
        let child = Command::new(program)
            .args(args(port, &folder.to_string_lossy()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let server = Self(child);
        std::fs::write(port_file(place), port.to_string())?;
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "{program} does not listen");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }
}

/// Connects to the server of a place.
pub fn connect(place: &Place) -> Result<TcpStream> {
    let port: u16 = std::fs::read_to_string(port_file(place))?.parse()?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn port_file(place: &Place) -> PathBuf {
    place.folder.join(format!("{}-port", place.queue))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
