//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipc_queue::Priority;

use crate::exit::Exit;
use crate::settings::Settings;

/// Looks at queues, sends, receives, pauses, drains and repairs.
///
/// A queue is named by its address: `shm:jobs`, `shm:media/jobs`, or `media/jobs` for short;
/// `unix:/PATH` if it is served. Commands that only look (ls, stat, top, peek, nodes, dlq
/// ls, dlq show) map a queue for reading only, and can't disturb it.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, after_help = format!("{EXAMPLES}\n{}", Exit::HELP))]
pub struct Cli {
    /// Print JSON for programs: one object, or one a line where there are many
    #[arg(long, global = true)]
    pub json: bool,
    /// Give up when a server did not answer a request for this long [default: the transport's]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub answer_timeout: Option<Duration>,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ipc ls                                   every queue of this user
  ipc create jobs --capacity 4096          with settings of your own
  ipc send jobs 'resize a.png'             send a message
  ipc recv jobs --follow                   take messages as they come, acking each
  ipc top media                            watch a namespace
  ipc dlq ls jobs; ipc dlq requeue jobs --all
  ipc stat jobs --prometheus               for a scraper
  ipc save jobs jobs.saved; ipc restore jobs.saved jobs --capacity 4096
  ipc serve jobs --at unix:/run/user/1000/jobs.sock
  ipc doctor --quiet                       for cron: prints only what is wrong
  source <(ipc completions bash)
";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List queues
    Ls {
        /// Only this namespace
        namespace: Option<String>,
    },
    /// Print all that is known of a queue
    Stat {
        /// Address of the queue
        queue: String,
        /// Print Prometheus's text format
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Watch queues: depths, rates, who holds what for how long. `q` ends it
    Top {
        /// Only this namespace; or only one queue, as `shm:NAME` or `unix:/PATH`
        what: Option<String>,
        /// Time between two samples
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        every: Duration,
        /// Sample twice, print once and exit; the default where the output can't be drawn on
        #[arg(long)]
        once: bool,
        /// Width of the printed picture
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(40..))]
        width: u16,
        /// Print the picture as SVG
        #[arg(long, requires = "once")]
        svg: bool,
    },
    /// Create a queue with settings of your own
    Create(Create),
    /// Send a message
    Send(Send),
    /// Receive messages, acking each once it was printed
    Recv(Recv),
    /// Show messages that are not leased, oldest first. They stay in the queue
    Peek {
        /// Address of the queue
        queue: String,
        /// Number of messages
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// Stop deliveries, also for processes that come later; sending goes on
    Pause {
        /// Address of the queue
        queue: String,
    },
    /// Start deliveries again
    Resume {
        /// Address of the queue
        queue: String,
        /// Open a queue that a save, restore or move left frozen, with what is in it. Messages that
        /// are in the other place, too, are delivered twice if that is run again after all
        #[arg(long)]
        give_up: bool,
    },
    /// Close a queue, and wait until everything in it was settled
    Drain(Drain),
    /// Open a closed queue again: it takes messages as before
    Reopen {
        /// Address of the queue
        queue: String,
    },
    /// Drop every message that is not leased. Dead letters stay
    Purge {
        /// Address of the queue
        queue: String,
    },
    /// Move messages from one queue to another, of any transports. A kill loses nothing: start it
    /// again
    Bridge(Bridge),
    /// Write everything in a queue to a file, and remove the queue: for a reboot or an upgrade
    ///
    /// Nobody else may have the queue open. Killed at any moment, run it again.
    Save(Save),
    /// Put everything in a file into a queue, and remove the file
    ///
    /// A queue that does not exist is created with the settings that the saved one had, except
    /// those that are given. Nobody else may have the queue open. Killed at any moment, run it
    /// again.
    Restore(Restore),
    /// Move everything in a queue to another one, and remove the first: for other settings
    ///
    /// As save and restore, without a file. Nobody else may have either queue open. For queues in
    /// use, and for other transports, there is bridge.
    Move(Move),
    /// Forget a key: a message with it is sent again as if none had been
    Forget(Forget),
    /// Dead letters: messages that were given up
    #[command(subcommand)]
    Dlq(Dlq),
    /// List nodes: who joined, who is alive, what each did
    Nodes {
        /// Only this namespace
        namespace: Option<String>,
        /// Silence after which a node counts as stale
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Look for what is wrong: with the machine, with segments, with processes that died
    ///
    /// Exits with 1 if something is bad, and with 0 if the next user of a queue repairs what was
    /// found.
    Doctor {
        /// Repair what the next user of each queue would repair
        #[arg(long)]
        repair: bool,
        /// Print only what is bad, and nothing if nothing is
        #[arg(long)]
        quiet: bool,
    },
    /// Serve a queue at a socket, for processes that can't share memory with it: in containers, in
    /// sandboxes
    ///
    /// A queue in shared memory (`jobs`) is there with or without its server. A `local:` queue is
    /// created here and ends here. Asked to end, by Ctrl-C, SIGTERM, SIGHUP or SIGQUIT, its server
    /// takes nothing more and waits until everything was settled; asked a second time, it ends at
    /// once. Under nohup a SIGHUP is ignored.
    Serve(Serve),
    /// Remove queues with everything in them. Blocked senders and receivers are woken and told
    Rm {
        /// Addresses of the queues
        #[arg(required = true)]
        queues: Vec<String>,
        /// Also remove messages, and what is not a queue but lies in the place of one
        #[arg(long)]
        force: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Name of the shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Address of the queue
    pub queue: String,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Send {
    /// Address of the queue
    pub queue: String,
    /// The message. Without it, standard input: one message, or with --lines one for each line.
    /// For a queue of a Rust type in JSON or MessagePack: the value as JSON; for a queue of String:
    /// the text
    #[arg(conflicts_with = "lines")]
    pub payload: Option<OsString>,
    /// Send each line of standard input as a message
    #[arg(long)]
    pub lines: bool,
    /// Create the queue if there is none
    #[arg(long)]
    pub create: bool,
    /// Send the bytes as they are to a queue of a Rust type, whose receivers may be unable to
    /// decode them
    #[arg(long)]
    pub raw: bool,
    /// Priority of the message
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    pub priority: Urgency,
    /// Deliver it after this delay
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// Drop it if it was not received within this time
    #[arg(long, value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// Do not send it if a message with this key was sent lately: then exit with 7
    #[arg(long, conflicts_with = "lines")]
    pub key: Option<OsString>,
    /// Header of the message, as NAME=VALUE; can be given several times. NAME has a-z, 0-9, '.', '_'
    /// and '-'
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<OsString>,
    /// Give up if there was no room for this long [default: wait]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Address of the queue
    pub queue: String,
    /// Socket, as `unix:/PATH`, in a folder that is yours alone
    #[arg(long)]
    pub at: String,
    /// Create the queue if there is none
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub settings: Settings,
    /// Number of connections at once: one for each handle that clients use, and one for each client
    #[arg(long, default_value_t = 512)]
    pub max_connections: usize,
}

#[derive(Debug, Args)]
pub struct Recv {
    /// Address of the queue
    pub queue: String,
    /// Number of messages
    #[arg(long, default_value_t = 1, conflicts_with = "follow")]
    pub count: usize,
    /// Go on until the queue is closed or removed, or until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Give up if no message came for this long; at once if zero [default: wait]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Give each message back once it was printed: it comes again, and this attempt counts
    #[arg(long)]
    pub nack: bool,
}

#[derive(Debug, Args)]
pub struct Drain {
    /// Address of the queue
    pub queue: String,
    /// Give up after this long; the queue stays closed [default: wait]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Resume the queue first if it is paused: a paused queue does not drain
    #[arg(long)]
    pub resume: bool,
}

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List dead letters
    Ls {
        /// Address of the queue
        queue: String,
    },
    /// Show a dead letter with its payload
    Show {
        /// Address of the queue
        queue: String,
        /// The letter, as `dlq ls` prints it
        letter: String,
    },
    /// Deliver dead letters again
    Requeue(Which),
    /// Drop dead letters
    Drop(Which),
}

#[derive(Debug, Args)]
pub struct Bridge {
    /// Queue that messages are taken from
    pub from: String,
    /// Queue that they go to. Each gets there once if it remembers keys for longer than the bridge
    /// is ever away
    pub to: String,
    /// End when the first queue is closed and drained. Otherwise go on until Ctrl-C
    #[arg(long)]
    pub drain: bool,
    /// Close the first queue, then end when it is drained: moves a queue
    #[arg(long)]
    pub close: bool,
    /// Create the second queue if there is none: for the same type, with the first one's settings,
    /// and with keys
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub settings: Settings,
    /// Allow payloads of different types: receivers of the second queue may be unable to decode
    /// them
    #[arg(long)]
    pub any_type: bool,
    /// Number of messages to hold at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Address of the queue
    pub queue: String,
    /// File to write, on a disk that survives the reboot
    pub file: PathBuf,
    /// Wait this long for other processes to leave the queue
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// File that save wrote
    pub file: PathBuf,
    /// Address of the queue
    pub queue: String,
    /// Do nothing, and exit with 0, if there is no such file
    #[arg(long)]
    pub if_exists: bool,
    /// Wait this long for other processes to leave the queue
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Move {
    /// Queue that is moved
    pub from: String,
    /// Queue that everything goes to; created if there is none
    pub to: String,
    /// Wait this long for other processes to leave the queues
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Forget {
    /// Address of the queue
    pub queue: String,
    /// The key, as it was given to send
    pub key: OsString,
}

#[derive(Debug, Args)]
pub struct Which {
    /// Address of the queue
    pub queue: String,
    /// The letters, as `dlq ls` prints them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub letters: Vec<String>,
    /// All dead letters
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
