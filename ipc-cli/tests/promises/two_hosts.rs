//! The walk-through of docs/scaling.md, from one host to a cluster: two network namespaces stand for
//! hosts, and a third one for the network with three servers.
//!
//! Each host is a shell in its namespace, with a folder and shared memory of its own. The commands
//! of the document are typed into these shells, in order. Those behind `net$` are typed into the
//! shell of the network: they pull a host's cable, and plug it in again.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ipc_nats::testing::is_installed;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};

use crate::place::say_skipped;

/// Time after which a command counts as stuck. It says nothing about speed.
const PATIENCE: Duration = Duration::from_secs(120);
const HEADING: &str = "## From one host to a cluster";
/// Begins the line that follows the output of each command.
const ENDED: &str = "@ended ";

/// A command of the document, and the output that it must have.
#[derive(Debug, Default)]
struct Step {
    host: String,
    command: String,
    output: Vec<String>,
}

/// Returns the commands of the walk-through: lines such as `a$ ipc ls`, continued by backslashes.
fn steps(text: &str) -> Vec<Step> {
    let (_, section) = text.split_once(HEADING).expect("the document has it");
    let section = section.split("\n## ").next().expect("there is a first");
    let (mut steps, mut is_inside): (Vec<Step>, _) = (Vec::new(), false);
    for line in section.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if is_inside {
            let last = steps.last_mut();
            let prompt = line.split_once("$ ").filter(|(host, _)| is_host(host));
            match (last, prompt) {
                (Some(last), _) if last.command.ends_with('\\') => {
                    last.command = format!("{}\n{line}", last.command);
                }
                (_, Some((host, command))) => steps.push(Step {
                    host: host.to_owned(),
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                (Some(last), None) => last.output.push(line.to_owned()),
                (None, None) => panic!("an output without a command: {line}"),
            }
        }
    }
    steps
}

fn is_host(text: &str) -> bool {
    ["net", "n1", "n2", "n3", "a", "b"].contains(&text)
}

/// A shell on a host. With it end all processes that it started.
struct Shell {
    child: Child,
    typed: ChildStdin,
    said: Receiver<String>,
    errors: PathBuf,
}

impl Shell {
    /// Starts a shell with `program` in front of it, in a new folder.
    fn start(mut program: Command, folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let ipc = Path::new(env!("CARGO_BIN_EXE_ipc")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let errors = folder.join("errors");
        let mut child = program
            .arg("sh")
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", ipc.display()))
            .env("IPC_SHM_DIR", folder.join("shm"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut typed = child.stdin.take().unwrap();
        // If this test is killed, the shell reads the end of its input.
        writeln!(typed, "trap 'kill -9 0' EXIT").unwrap();
        let (say, said) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        Self {
            child,
            typed,
            said,
            errors,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command, which must succeed, and returns its output.
    fn run(&mut self, command: &str) -> Vec<String> {
        let typed = format!("{{\n{command}\n}} </dev/null; echo \"{ENDED}$?\"\n");
        self.typed.write_all(typed.as_bytes()).unwrap();
        let mut output = Vec::new();
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) => match line.strip_prefix(ENDED) {
                    Some("0") => return output,
                    Some(code) => panic!("{command}\nended with {code}: {}", self.complaints()),
                    None => output.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{command}\nno end in {PATIENCE:?}: {}", self.complaints())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{command}\nthe shell ended: {}", self.complaints())
                }
            }
        }
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The network, its servers and the two hosts.
struct World {
    /// Before the network, so that processes end before their namespaces.
    shells: HashMap<&'static str, Shell>,
    folder: tempfile::TempDir,
}

impl World {
    /// Returns `None` if this machine forbids it, after it said so.
    fn new() -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let tried = unshared().args(["sh", "-c", TRIAL]).output();
        let why = match tried {
            Ok(tried) if tried.status.success() => None,
            Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        };
        if let Some(why) = why {
            say_skipped("two_hosts", &format!("network namespaces: {why}"));
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("ipc-two-hosts-")
            .tempdir_in("/dev/shm")
            .unwrap();
        let mut world = Self {
            shells: HashMap::new(),
            folder,
        };
        world.build();
        Some(world)
    }

    fn build(&mut self) {
        let folder = self.folder.path().to_owned();
        let mut net = Shell::start(unshared(), &folder.join("net"));
        net.run(
            "ip link set lo up && ip link add switch type bridge && ip link set switch up &&
             ip addr add 10.0.0.1/24 dev switch && ip addr add 10.0.0.2/24 dev switch &&
             ip addr add 10.0.0.3/24 dev switch",
        );
        for server in ["n1", "n2", "n3"] {
            let shell = Shell::start(inside(net.pid()), &folder.join(server));
            self.shells.insert(server, shell);
        }
        for (host, number) in [("a", 11), ("b", 12)] {
            let mut program = inside(net.pid());
            program.args(["unshare", "--net"]);
            let mut shell = Shell::start(program, &folder.join(host));
            // The shell is in its namespace once it answers.
            shell.run("ip link set lo up");
            let pid = shell.pid();
            net.run(&format!(
                "ip link add name {host} type veth peer name cable netns {pid} &&
                 ip link set dev {host} master switch && ip link set dev {host} up"
            ));
            shell.run(&format!(
                "ip addr add 10.0.0.{number}/24 dev cable && ip link set cable up"
            ));
            self.shells.insert(host, shell);
        }
        self.shells.insert("net", net);
    }

    fn run(&mut self, step: &Step) {
        let shell = self.shells.get_mut(&*step.host).expect("a host");
        let output = shell.run(&step.command);
        if !step.output.is_empty() {
            assert_eq!(output, step.output, "{}$ {}", step.host, step.command);
        }
    }

    /// Returns the lines of a file of a host.
    fn lines(&self, host: &str, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(host).join(file)).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// What the network needs: a bridge, and a cable into another namespace.
const TRIAL: &str =
    "ip link add switch type bridge && ip link add name a type veth peer name cable &&
    command -v nsenter >/dev/null && command -v seq >/dev/null && unshare --net true";

/// A command that runs another one in a new network namespace. Without the superuser's rights, in a
/// new user namespace.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net");
    command
}

/// A command that runs another one in the network namespace of that process.
fn inside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string()]);
    if !geteuid().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.arg("--net");
    command
}

#[test]
fn the_walk_through_loses_no_message_when_a_host_is_disconnected() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scaling.md");
    let steps = steps(&fs::read_to_string(text).unwrap());
    assert!(steps.iter().any(|step| step.command.ends_with("a down")));
    assert!(steps.iter().any(|step| step.command.ends_with("b down")));
    let Some(mut world) = World::new() else {
        return;
    };
    for step in &steps {
        world.run(step);
    }
    let mut orders = world.lines("a", "done-on-a");
    orders.extend(world.lines("b", "done-on-b"));
    orders.sort_unstable_by_key(|order| order.parse::<u32>().unwrap());
    let sent: Vec<_> = (1..=200).map(|order| order.to_string()).collect();
    assert_eq!(orders, sent, "each order once");
}
