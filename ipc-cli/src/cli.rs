//! What can be asked for on the command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipc_queue::Priority;

/// Looks at queues, sends, receives, pauses, drains and repairs.
///
/// A queue is named by its address: `shm:jobs`, `shm:media/jobs`, or `media/jobs` for short; `unix:/PATH` if it is served. What only looks
/// (ls, stat, top, peek, nodes, doctor, dlq ls, dlq show) maps a queue for reading only, and can't disturb anybody.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Print JSON for programs: one object, or one a line where there are many.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ipc ls                                   every queue of this user
  ipc send jobs 'resize a.png'             send a message
  ipc recv jobs --follow                   take messages as they come, acking each
  ipc top media                            watch a namespace
  ipc dlq ls jobs; ipc dlq requeue jobs --all
  ipc stat jobs --prometheus               for a scraper
  ipc serve jobs --at unix:/run/user/1000/jobs.sock
  source <(ipc completions bash)

Ends with 0 if all is well, 1 if not, 2 if the command line is wrong, 3 if there was nothing to receive in time.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List queues.
    Ls {
        /// Only those of this namespace.
        namespace: Option<String>,
    },
    /// Say all that is known of a queue.
    Stat {
        /// Which.
        queue: String,
        /// In Prometheus's text format.
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Watch queues: depths, rates, who holds what for how long. `q` ends it.
    Top {
        /// Only those of this namespace.
        namespace: Option<String>,
        /// Between two looks.
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        every: Duration,
        /// Look twice, print once. So it is, too, when the output is no terminal.
        #[arg(long)]
        once: bool,
        /// How wide that one picture is.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(40..))]
        width: u16,
        /// Print that one picture as SVG.
        #[arg(long, requires = "once")]
        svg: bool,
    },
    /// Send a message.
    Send(Send),
    /// Receive messages, acking each once it was printed.
    Recv(Recv),
    /// Show messages that nobody holds, those sent first first. They stay.
    Peek {
        /// Which queue.
        queue: String,
        /// At most so many.
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// Stop deliveries, also for processes that come later; sending goes on.
    Pause {
        /// Which queue.
        queue: String,
    },
    /// Start deliveries again.
    Resume {
        /// Which queue.
        queue: String,
    },
    /// Close a queue, and wait until everything in it was settled.
    Drain {
        /// Which queue.
        queue: String,
        /// For so long at most.
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Drop everything that nobody holds. Dead letters stay.
    Purge {
        /// Which queue.
        queue: String,
    },
    /// Move messages from one queue to another, of any transports. Killed at any moment it loses nothing: start it again.
    Bridge(Bridge),
    /// Dead letters: messages that were given up.
    #[command(subcommand)]
    Dlq(Dlq),
    /// List nodes: who joined, who is alive, what each did.
    Nodes {
        /// Only those of this namespace.
        namespace: Option<String>,
        /// After how long a silence a node counts as stale.
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Look for what is wrong: with the machine, with segments, with processes that died.
    Doctor {
        /// Repair what can be: whoever uses a queue next would do the same.
        #[arg(long)]
        repair: bool,
    },
    /// Serve a queue at a socket, for processes that can't share memory with it: in containers, in sandboxes.
    ///
    /// A queue in shared memory (`jobs`) is there with or without its server. A `local:` one is made here and ends
    /// here: told to stop, by Ctrl-C, the server takes nothing more and waits until everything was settled; told again, it
    /// ends at once.
    Serve(Serve),
    /// Remove queues with everything in them. Whoever has one open is woken and told.
    Rm {
        /// Which.
        #[arg(required = true)]
        queues: Vec<String>,
        /// Also if messages are in it.
        #[arg(long)]
        force: bool,
    },
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub struct Send {
    /// Which queue.
    pub queue: String,
    /// What to say. Without it, standard input: as one message, or with --lines as one for each line.
    #[arg(conflicts_with = "lines")]
    pub payload: Option<String>,
    /// Send each line of standard input as a message.
    #[arg(long)]
    pub lines: bool,
    /// Create the queue if there is none.
    #[arg(long)]
    pub create: bool,
    /// How urgent it is.
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    pub priority: Urgency,
    /// Keep it back for so long.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// Drop it if nobody took it in so long.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// Don't send it if one with this key was sent lately.
    #[arg(long, conflicts_with = "lines")]
    pub key: Option<String>,
    /// Wait for room for so long; for ever if not given.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Which queue.
    pub queue: String,
    /// Where, as `unix:/PATH`; in a folder that is yours alone.
    #[arg(long)]
    pub at: String,
    /// Create the queue if there is none.
    #[arg(long)]
    pub create: bool,
    /// Create it for so many messages.
    #[arg(long)]
    pub capacity: Option<u32>,
    /// Create it with leases of so long.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub lease: Option<Duration>,
    /// Create it for payloads of so many bytes at most.
    #[arg(long)]
    pub max_message_bytes: Option<u32>,
    /// Create it with priorities.
    #[arg(long)]
    pub priorities: bool,
    /// Create it with keys, remembered for so long.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub dedup_window: Option<Duration>,
    /// Create it for payloads of this type, as its Rust name says. Of a `local:` queue clients may otherwise think what they like.
    #[arg(long = "type")]
    pub payload: Option<String>,
    /// So many connections at once: one for each handle that clients use, and one for each client.
    #[arg(long, default_value_t = 512)]
    pub max_connections: usize,
}

#[derive(Debug, Args)]
pub struct Recv {
    /// Which queue.
    pub queue: String,
    /// So many.
    #[arg(long, default_value_t = 1, conflicts_with = "follow")]
    pub count: usize,
    /// Go on until the queue is closed or removed, or until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
    /// Wait for each for so long; not at all if zero, for ever if not given.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Give each back once it was printed: it comes again, and this attempt counts.
    #[arg(long)]
    pub nack: bool,
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List them.
    Ls {
        /// Of which queue.
        queue: String,
    },
    /// Show one with its payload.
    Show {
        /// Of which queue.
        queue: String,
        /// As `dlq ls` says.
        letter: String,
    },
    /// Send a copy as a new message and drop the letter.
    Requeue(Which),
    /// Drop it.
    Drop(Which),
}

#[derive(Debug, Args)]
pub struct Bridge {
    /// Where messages are taken from, such as jobs.
    pub from: String,
    /// Where they go. It should remember keys for longer than the bridge is ever away: then each gets there once.
    pub to: String,
    /// End when the first queue is closed and drained. Otherwise go on until Ctrl-C.
    #[arg(long)]
    pub drain: bool,
    /// Create the other queue, as one of plain bytes that remembers keys for an hour, if there is none.
    #[arg(long)]
    pub create: bool,
    /// Hold at most so many messages at a time.
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
}

#[derive(Debug, Args)]
pub struct Which {
    /// Of which queue.
    pub queue: String,
    /// As `dlq ls` says.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub letters: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Urgency {
    Low,
    Normal,
    High,
    Urgent,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Low => Self::Low,
            Urgency::Normal => Self::Normal,
            Urgency::High => Self::High,
            Urgency::Urgent => Self::Urgent,
        }
    }
}
