//! The command line: the commands, and what the help says about each.

mod arguments;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub use self::arguments::{
    Bridge, Check, Create, Delete, Dlq, Drain, Forget, Metrics, Move, Recv, Restore, Revoke, Save,
    Send, Serve, Tail, Urgency, Web, Which, Work,
};
use crate::complete;
use crate::exit::Exit;
use crate::json;
use crate::select::Selection;

/// Inspects queues, sends, receives, pauses, drains and repairs.
///
/// A queue is named by its address: `shm:jobs`, `shm:media/jobs`, or `media/jobs` for short;
/// `unix:/PATH` if it is served. Commands that only read (ls, stat, top, peek, nodes, dlq ls, dlq
/// show) map a queue read-only, and can't disturb it.
#[derive(Debug, Parser)]
#[command(name = "ipc", version, after_help = format!("{EXAMPLES}\n{}", Exit::HELP))]
pub struct Cli {
    /// Print JSON for programs. The help of each command says whether that is one array, one
    /// object, or one object per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Give up when a server has not answered a request for this long [default: the transport's]
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub answer_timeout: Option<Duration>,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ipc ls                                   every queue of this user
  ipc create jobs --capacity 4096          create a queue with your settings
  ipc send jobs 'resize a.png'             send a message
  ipc recv jobs --follow                   take messages as they arrive, and ack each
  ipc work jobs -j 4 -- ./resize.sh        run a command for each message
  ipc top media                            watch a namespace
  ipc web media                            watch it in a browser, with the last hour
  ipc dlq ls jobs; ipc dlq requeue jobs --all
  ipc metrics --listen 127.0.0.1:9464      for a scraper
  ipc check jobs --max-age 5m --max-dead 0 for an alarm
  ipc save jobs jobs.saved; ipc restore jobs.saved jobs --capacity 4096
  ipc serve jobs --at unix:/run/user/1000/jobs.sock
  ipc doctor --quiet                       for cron: prints only what is wrong
  source <(ipc completions bash)
";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List queues
    #[command(after_help = json::ARRAY)]
    Ls {
        /// Only this namespace; or queues by their addresses, such as `unix:/PATH` or
        /// `nats://HOST/NAME`
        #[arg(add = complete::namespaces())]
        what: Vec<String>,
    },
    /// Print everything that is known about a queue
    #[command(after_help = json::OBJECT)]
    Stat {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        /// Print in Prometheus's text format
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Print the figures of queues for a scraper, or serve them over HTTP
    ///
    /// In Prometheus's text format, or in OpenMetrics' if the scraper accepts it.
    #[command(after_help = json::SERVED)]
    Metrics(Metrics),
    /// Check that queues are within limits, with the exit codes of Nagios
    ///
    /// Prints one line, with the figures after a bar. Exit codes: 0 ok; 1 a figure is above a
    /// --warn limit; 2 a figure is above a --max limit; 3 unknown: no such queue, no answer, or an
    /// invalid command line.
    #[command(after_help = json::OBJECT)]
    Check(Check),
    /// Watch queues: depths, rates, and which process holds which message for how long. `q` quits
    ///
    /// Keys: `/` filters by name, `s` sorts by the next column, the arrow keys select a queue,
    /// Enter shows only that queue, Esc goes back. `p` pauses or resumes the selected queue, `r`
    /// requeues its dead letters, `d` closes it so that it drains; each asks for confirmation.
    ///
    /// EMPTY is the time until nothing is ready, if the rates do not change. FOR is the minimum
    /// time for which a message has been held: since it was first seen, or since its lease was last
    /// extended.
    #[command(after_help = json::OBJECT)]
    Top {
        /// Only this namespace; or queues by their addresses, such as `shm:NAME`, `unix:/PATH` or
        /// `nats://HOST/NAME`
        #[arg(add = complete::namespaces())]
        what: Vec<String>,
        /// Time between two samples
        #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
        every: Duration,
        /// Sample twice, print once and exit; the default if the output is not a terminal that can
        /// be drawn on
        #[arg(long)]
        once: bool,
        /// Width of the printed picture
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(40..))]
        width: u16,
        /// Print the picture as SVG
        #[arg(long, requires = "once")]
        svg: bool,
    },
    /// Show the figures of `top` in a browser, with plots of the last hour
    ///
    /// Prints the address of the page, and serves it until Ctrl-C. The page needs nothing from the
    /// internet, and changes nothing unless --allow-actions is given. It answers only the user who
    /// started it: other users of the machine are refused, and so are requests from other sites.
    ///
    /// Programs can read the figures too: /api/queues is like `top --json`, /api/queues/NAME like
    /// `stat --json`, /api/dead/NAME like `dlq ls --json` with excerpts of the payloads;
    /// /api/history/NAME has the last hour. All of it follows the schema docs/ipc.schema.json.
    #[command(after_help = json::OBJECT)]
    Web(Web),
    /// Create a queue with the given settings
    #[command(after_help = json::OBJECT)]
    Create(Create),
    /// Send a message
    #[command(after_help = json::LINES)]
    Send(Send),
    /// Receive messages, and ack each after printing it
    #[command(after_help = json::LINES)]
    Recv(Recv),
    /// Run a command for each message, and ack the message if the command succeeds
    ///
    /// The command gets the payload on standard input or, if an argument contains `{}`, in a file
    /// whose path replaces it. Environment variables describe the message:
    ///
    ///   IPC_QUEUE, IPC_MESSAGE (the id), IPC_KIND, IPC_ATTEMPT (from 1), IPC_DELIVERY (grows with
    ///   each delivery: a fencing token), IPC_SENT_AT_NANOSECONDS, IPC_HEADERS (an object in JSON),
    ///   IPC_HEADER_NAME for each header NAME, in capitals and with `_` in place of `.` and `-`;
    ///   IPC_PAYLOAD_FILE if the payload is in a file
    ///
    /// Its exit code decides what happens to the message:
    ///
    ///   0    acked: done
    ///   65   buried: a dead letter at once (EX_DATAERR: the message is invalid)
    ///   75   snoozed: redelivered after --snooze, and no attempt is lost (EX_TEMPFAIL)
    ///   any other code, or a signal: nacked. It is redelivered after the queue's backoff, and is a
    ///   dead letter after the queue's attempt limit
    ///
    /// The dead letter's reason is the exit code or the signal, and the last line that the command
    /// wrote to standard error. While a command runs, its message's lease is extended. If the lease
    /// is lost anyway, the command is ended: SIGTERM, then SIGKILL 5 s later.
    ///
    /// It runs until the queue is closed and drained, or removed. On SIGINT, SIGTERM, SIGHUP or
    /// SIGQUIT it takes no more messages, waits for the running commands, and exits with 0. A
    /// second signal ends it at once. However it ends, its commands end with it, and so do the
    /// processes that they left in the background; a process that must outlive it needs setsid.
    #[command(verbatim_doc_comment)]
    #[command(after_help = json::LINES)]
    Work(Work),
    /// The guard that `work` starts for its commands
    #[command(hide = true)]
    WorkGuard {
        /// Folder to remove on exit
        folder: Option<PathBuf>,
    },
    /// Show messages that are not leased, oldest first. They stay in the queue
    #[command(after_help = json::ARRAY)]
    Peek {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        /// Number of messages
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// Follow a queue: print the waiting messages and those that arrive, without taking them
    ///
    /// Reads the queue every --every. Messages that are sent and received between two reads are not
    /// seen, so fast receivers hide more messages; `ipc stat` counts all that were sent. A requeued
    /// dead letter is shown again. With --json one object is printed for each message, on its own
    /// line, as by `ipc peek` and `ipc export`. Works for queues in shared memory only.
    #[command(after_help = json::LINES)]
    Tail(Tail),
    /// Print messages for `import`: one JSON object on each line. They stay in the queue
    ///
    /// The lines are those of `ipc recv --json` and `ipc peek --json`, and `ipc import` and `ipc
    /// send --json` read them.
    #[command(after_help = json::ALWAYS_LINES)]
    Export {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        #[command(flatten)]
        selection: Selection,
    },
    /// Send each line of standard input, a JSON object as printed by `export` and `recv --json`
    ///
    /// These fields of each object are read: payload (a string, or an object with `text`, or with
    /// `hex` for bytes, which are sent unchanged), headers, kind, priority and key. Messages get
    /// new ids.
    #[command(after_help = json::LINES)]
    Import {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        /// Create the queue if it does not exist
        #[arg(long)]
        create: bool,
        /// Give up if there has been no room for this long [default: wait]
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Delete some messages: waiting ones, or dead letters with --state dead
    #[command(after_help = json::OBJECT)]
    Delete(Delete),
    /// Take messages back from receivers that hold them, such as one that is stuck
    ///
    /// Each message is delivered again, as if its lease had expired. This counts towards the
    /// queue's --expiry-limit, after which the message becomes a dead letter. The receiver's ack is
    /// refused. `ipc stat` shows which process holds which message.
    #[command(after_help = json::LINES)]
    Revoke(Revoke),
    /// Stop deliveries, also to processes that attach later; sending continues
    #[command(after_help = json::OBJECT)]
    Pause {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
    },
    /// Resume deliveries
    #[command(after_help = json::OBJECT)]
    Resume {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
        /// Open a queue that a save, restore or move left frozen, with the messages that are in it.
        /// If the interrupted command is run again later, messages that are also in the other place
        /// are delivered twice
        #[arg(long)]
        give_up: bool,
    },
    /// Close a queue, and wait until everything in it is settled
    #[command(after_help = json::OBJECT)]
    Drain(Drain),
    /// Open a closed queue again, so that it accepts messages
    #[command(after_help = json::OBJECT)]
    Reopen {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
    },
    /// Drop every message that is not leased. Dead letters stay
    #[command(after_help = json::OBJECT)]
    Purge {
        /// Address of the queue
        #[arg(add = complete::queues())]
        queue: String,
    },
    /// Move messages from one queue to another, between any transports. Nothing is lost if it is
    /// killed: start it again
    #[command(after_help = json::OBJECT)]
    Bridge(Bridge),
    /// Write everything in a queue to a file, and remove the queue: for a reboot or an upgrade
    ///
    /// No other process may have the queue open. If it is killed, run it again. If the file is
    /// complete but the queue can't be removed, the queue stays frozen, so that no message is in
    /// use twice: run the same `ipc save` again, which removes it. `ipc resume QUEUE --give-up`
    /// opens the queue instead; then remove the file.
    #[command(after_help = json::OBJECT)]
    Save(Save),
    /// Put everything in a file into a queue, and remove the file
    ///
    /// A queue that does not exist is created with the settings of the saved one, except those
    /// given here. No other process may have the queue open. If it is killed, run it again.
    #[command(after_help = json::OBJECT)]
    Restore(Restore),
    /// Move everything in a queue to another one, and remove the first; or move some messages
    ///
    /// Everything: like save and restore, without a file. No other process may have either queue
    /// open. For queues in use, and for other transports, use bridge.
    ///
    /// Some messages (see `Which messages` below): each is sent to the other queue, then deleted in
    /// the first. The first may be in use, and stays. Payload, headers, kind and priority are
    /// carried. If the command is killed between the two, a message is in both queues. Run it
    /// again: if the other queue remembers keys, no message is sent twice. A message that a
    /// receiver takes between the two is also in both queues, which is reported; `ipc pause`
    /// prevents it.
    #[command(after_help = json::OBJECT)]
    Move(Move),
    /// Forget a key, so that a message with it can be sent again
    #[command(after_help = json::OBJECT)]
    Forget(Forget),
    /// Dead letters: messages that are no longer delivered
    #[command(subcommand)]
    Dlq(Dlq),
    /// List nodes: which joined, which are alive, and what each has done
    #[command(after_help = json::ARRAY)]
    Nodes {
        /// Only this namespace
        #[arg(add = complete::namespaces())]
        namespace: Option<String>,
        /// Silence after which a node counts as stale
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Look for problems of the machine, of queues, and of processes that hold messages
    ///
    /// Exits with 1 if something is bad, and with 0 if the next user of a queue repairs what was
    /// found.
    #[command(after_help = json::ARRAY)]
    Doctor {
        /// Only these queues, by their addresses of any transport [default: the machine, and all
        /// queues in shared memory]
        #[arg(add = complete::queues())]
        queues: Vec<String>,
        /// Repair what the next user of each queue would repair
        #[arg(long)]
        repair: bool,
        /// Print only what is bad, and nothing if all is well
        #[arg(long)]
        quiet: bool,
    },
    /// Serve a queue at a socket, for processes that can't share memory with it: in containers, in
    /// sandboxes
    ///
    /// A queue in shared memory (`jobs`) exists with or without its server. A `local:` queue is
    /// created by this command and ends with it. On Ctrl-C, SIGTERM, SIGHUP or SIGQUIT its server
    /// accepts no more messages and waits until everything is settled; a second signal ends it at
    /// once. Under nohup a SIGHUP is ignored.
    #[command(after_help = json::LINES)]
    Serve(Serve),
    /// Remove queues with everything in them. Blocked senders and receivers wake with an error
    #[command(after_help = json::LINES)]
    Rm {
        /// Addresses of the queues
        #[arg(required = true)]
        #[arg(add = complete::queues())]
        queues: Vec<String>,
        /// Also remove queues that hold messages, and entries that are not queues but have the name
        /// of one
        #[arg(long)]
        force: bool,
    },
    /// Print completions for a shell
    #[command(after_help = json::NEVER)]
    Completions {
        /// Name of the shell
        shell: Shell,
    },
    /// Write a manual page for each command
    #[command(hide = true, after_help = json::NEVER)]
    Man {
        /// Folder for the pages; created if it does not exist
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
}
