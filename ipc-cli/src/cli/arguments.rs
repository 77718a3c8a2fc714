//! The arguments of the commands that have many.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ipc_queue::Priority;

use crate::complete;
use crate::json;
use crate::select::Selection;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub struct Metrics {
    /// Addresses of the queues [default: all in shared memory]
    #[arg(add = complete::queues())]
    pub queues: Vec<String>,
    /// Serve them at http://IP:PORT/metrics until a signal ends it
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Print in the OpenMetrics format
    #[arg(long, conflicts_with = "listen")]
    pub openmetrics: bool,
}

#[derive(Debug, Args)]
pub struct Web {
    /// Only this namespace; or queues by their addresses, such as `shm:NAME`, `unix:/PATH` or
    /// `nats://HOST/NAME`
    #[arg(add = complete::namespaces())]
    pub what: Vec<String>,
    /// Address and port of the page; port 0 chooses a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9465")]
    pub listen: SocketAddr,
    /// Time between two samples
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub every: Duration,
    /// Let the page pause and resume queues, and requeue dead letters. This needs the token at the
    /// end of the printed address
    #[arg(long)]
    pub allow_actions: bool,
    /// Listen at an address that other machines can reach. Nothing is encrypted, and anyone who can
    /// reach it sees the figures and the beginnings of dead letters
    #[arg(long)]
    pub allow_remote: bool,
    /// Also answer requests to this host name, as in the browser's address bar; can be given
    /// several times
    #[arg(long = "allow-host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// Also answer other users of this machine
    #[arg(long)]
    pub any_user: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Addresses of the queues
    #[arg(required = true, value_name = "QUEUE")]
    #[arg(add = complete::queues())]
    pub queues: Vec<String>,
    /// Critical above this number of waiting messages, delayed ones included
    #[arg(long, value_name = "MESSAGES")]
    pub max_depth: Option<u64>,
    /// Critical if a message has waited for longer
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_age: Option<Duration>,
    /// Critical above this number of dead letters
    #[arg(long, value_name = "LETTERS")]
    pub max_dead: Option<u64>,
    /// Warn above this number of waiting messages
    #[arg(long, value_name = "MESSAGES")]
    pub warn_depth: Option<u64>,
    /// Warn if a message has waited for longer
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub warn_age: Option<Duration>,
    /// Warn above this number of dead letters
    #[arg(long, value_name = "LETTERS")]
    pub warn_dead: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Create {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Send {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// The message. Without it, standard input is sent: as one message; with --lines as one message
    /// per line; with --json as one message per line, each an object as printed by `recv --json`.
    /// For a queue of a Rust type in JSON or MessagePack: the value as JSON; for a queue of String:
    /// the text
    #[arg(conflicts_with = "lines")]
    pub payload: Option<OsString>,
    /// Send each line of standard input as a message
    #[arg(long)]
    pub lines: bool,
    /// Create the queue if it does not exist
    #[arg(long)]
    pub create: bool,
    /// Send the bytes unchanged to a queue of a Rust type, although its receivers may be unable to
    /// decode them
    #[arg(long)]
    pub raw: bool,
    /// Priority of the message
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    pub priority: Urgency,
    /// Deliver it after this delay
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// Drop it if it is not received within this time
    #[arg(long, value_parser = humantime::parse_duration)]
    pub expires_in: Option<Duration>,
    /// Do not send it if a message with this key was sent recently; exit with 7 instead
    #[arg(long, conflicts_with = "lines")]
    pub key: Option<OsString>,
    /// Header of the message, as NAME=VALUE; can be given several times. NAME may contain a-z, 0-9,
    /// '.', '_' and '-'
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<OsString>,
    /// Give up if there has been no room for this long [default: wait]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Socket, as `unix:/PATH`, in a folder that only you can enter
    #[arg(long)]
    pub at: String,
    /// Create the queue if it does not exist
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub settings: Settings,
    /// Maximum number of connections: one for each handle of a client, and one for each client
    #[arg(long, default_value_t = 512)]
    pub max_connections: usize,
}

#[derive(Debug, Args)]
pub struct Recv {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Number of messages
    #[arg(long, default_value_t = 1, conflicts_with = "follow")]
    pub count: usize,
    /// Go on until the queue is closed or removed, or until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    /// Give up if no message has arrived for this long; at once if zero [default: wait]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Nack each message after printing it: it is delivered again, and this attempt counts
    #[arg(long)]
    pub nack: bool,
}

#[derive(Debug, Args)]
pub struct Work {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Number of commands that run at once
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Delay before a message is delivered again after its command ended with 75
    #[arg(long, value_name = "TIME", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub snooze: Duration,
    /// End a command that runs for longer: SIGTERM, then SIGKILL 5 s later. Its message is nacked
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
    /// End after this many commands [default: no limit]
    #[arg(long, value_name = "COMMANDS")]
    pub count: Option<usize>,
    /// End when no message has arrived and no command has run for this long; with 0s, when the
    /// queue is empty
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub idle_timeout: Option<Duration>,
    /// Text in the command's arguments that is replaced by the path of the payload file
    #[arg(long, value_name = "TEXT", default_value = "{}")]
    pub placeholder: OsString,
    /// Give commands the raw bytes, even if the queue's payloads could be shown as text
    #[arg(long)]
    pub raw: bool,
    /// The command and its arguments. With --json its output goes to standard error, because
    /// standard output has one object per message
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Drain {
    /// Address of the queue
    #[arg(add = complete::queues())]
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
    #[command(after_help = json::ARRAY)]
    Ls {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
    },
    /// Show a dead letter with its payload
    #[command(after_help = json::OBJECT)]
    Show {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        /// The letter, as `dlq ls` prints it
        letter: String,
    },
    /// Deliver dead letters again
    #[command(after_help = json::OBJECT)]
    Requeue(Which),
    /// Drop dead letters
    #[command(visible_alias = "discard")]
    #[command(after_help = json::OBJECT)]
    Drop(Which),
}

#[derive(Debug, Args)]
pub struct Bridge {
    /// Queue from which messages are taken
    #[arg(add = complete::queues())]
    pub from: String,
    /// Queue to which they go. Each arrives exactly once if this queue remembers keys for longer
    /// than the bridge is ever down
    #[arg(add = complete::queues())]
    pub to: String,
    /// End when the first queue is closed and drained. Otherwise continue until Ctrl-C
    #[arg(long)]
    pub drain: bool,
    /// Close the first queue, then end when it is drained: moves a queue
    #[arg(long)]
    pub close: bool,
    /// Create the second queue if it does not exist, with the type and settings of the first one,
    /// and with keys
    #[arg(long)]
    pub create: bool,
    #[command(flatten)]
    pub settings: Settings,
    /// Allow payloads of different types, although receivers of the second queue may be unable to
    /// decode them
    #[arg(long)]
    pub any_type: bool,
    /// Number of messages to hold at a time
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Address of the queue
    #[arg(add = complete::queues())]
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
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Do nothing and exit with 0 if the file does not exist
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
    /// Queue to move, or from which some messages are moved
    #[arg(add = complete::queues())]
    pub from: String,
    /// Queue to which they go; created if it does not exist
    #[arg(add = complete::queues())]
    pub to: String,
    #[command(flatten)]
    pub selection: Selection,
    /// Wait this long for other processes to leave the queues
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Forget {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// The key, as given to send
    pub key: OsString,
}

#[derive(Debug, Args)]
pub struct Which {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// The letters, as `dlq ls` prints them
    #[arg(required_unless_present_any = ["all", "older_than", "keep"])]
    #[arg(conflicts_with_all = ["all", "older_than", "keep"])]
    pub letters: Vec<String>,
    /// All dead letters
    #[arg(long)]
    pub all: bool,
    /// All dead letters of messages that were sent longer ago than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// All dead letters except this many of the youngest; with --older-than, of those selected
    #[arg(long, value_name = "LETTERS")]
    pub keep: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Number of waiting messages to print at the start, the youngest ones
    #[arg(long, default_value_t = 10)]
    pub count: usize,
    /// Time between two reads of the queue
    #[arg(long, value_name = "TIME", default_value = "100ms")]
    #[arg(value_parser = humantime::parse_duration)]
    pub every: Duration,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    #[command(flatten)]
    pub selection: Selection,
    /// All waiting messages, as purge does
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// Address of the queue
    #[arg(add = complete::queues())]
    pub queue: String,
    /// Ids of the messages, as `stat` prints them
    #[arg(required = true, value_name = "MESSAGE")]
    pub messages: Vec<String>,
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
