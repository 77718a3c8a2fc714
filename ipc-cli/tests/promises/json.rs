//! The `--json` output and the help of every command agree with `docs/ipc.schema.json`.
//!
//! Each command runs on queues that contain every kind of content: messages that are ready,
//! delayed, held and dead, with headers, keys and a type. Every output must match its definition,
//! and every property of every definition must have been printed once.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ipc_node::Node;
use ipc_queue::{Backoff, ByteQueue, Encoding, Queue, QueueOptions, SendOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::doctor::Folder;
use crate::place::{Ended, Place, Running, ipc, run, run_with, wait_until};
use crate::web::Web;

mod schema;

use schema::Schema;

/// Commands whose output is never JSON.
const NEVER: [&str; 2] = ["completions", "man"];

fn docs(file: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::read_to_string(docs.join(file)).unwrap()
}

/// Returns the subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Returns every command, with `dlq ls` as `dlq-ls`.
fn commands() -> Vec<String> {
    let mut all = subcommands(&run(&["--help"]).expect(0).out);
    all.retain(|name| name != "dlq");
    let of_dlq = subcommands(&run(&["dlq", "--help"]).expect(0).out);
    all.extend(of_dlq.iter().map(|name| format!("dlq-{name}")));
    all.push("man".to_owned());
    assert!(all.len() > 30, "{all:?}");
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Array,
    Object,
    Lines,
}

/// A queue with a message of every state, and one of them held by another process.
struct Scene {
    place: Place,
    queue: ByteQueue,
    worker: Running,
}

impl Scene {
    fn new(test: &str) -> Self {
        let place = Place::new(test);
        let options = QueueOptions::new().capacity(64).attempt_limit(3);
        let options = options.lease(Duration::from_secs(3600));
        let options = options
            .dedup_window(Duration::from_secs(60))
            .backoff(Backoff::None);
        let queue = place.make("jobs", &options);
        let sender = queue.sender();
        sender.send(b"buried").unwrap();
        let receiver = queue.receiver();
        receiver.recv().unwrap().bury_with("no such file").unwrap();
        drop(receiver);
        sender.send(b"held").unwrap();
        let name = place.name("jobs");
        let mut work = ipc(&["work", &name, "--count", "1", "--", "sleep", "1000"]);
        let worker = Running::start(&mut work);
        wait_until("it is held", || {
            queue.transport().stats().unwrap().leased == 1
        });
        let headers = SendOptions::new()
            .header("tenant", "acme")
            .and_then(|options| options.header("raw", [0xff, 1]));
        let headers = headers.unwrap();
        sender
            .send_with(b"ready", &headers.clone().key("first"))
            .unwrap();
        sender.send_with(b"\xff", &headers).unwrap();
        let later = SendOptions::new().delay(Duration::from_secs(3600));
        sender.send_with(b"later", &later).unwrap();
        Self {
            place,
            queue,
            worker,
        }
    }

    fn name(&self) -> String {
        self.place.name("jobs")
    }

    fn held(&self) -> String {
        self.queue.transport().leases().unwrap()[0]
            .message
            .to_string()
    }
}

#[test]
fn every_output_matches_the_schema_and_the_schema_has_nothing_else() {
    let schema = Schema::new();
    looks(&schema);
    looks_at_typed_and_served_queues(&schema);
    takes(&schema);
    empties(&schema);
    controls(&schema);
    carries(&schema);
    serves(&schema);
    serves_a_page(&schema);
    dead_receivers(&schema);
    let mut never = schema.never_printed();
    // Only a pool learns which signal ended its worker.
    never.retain(|pointer| pointer != "/$defs/dead-letter/properties/signal");
    assert!(never.is_empty(), "never printed: {never:#?}");
}

fn looks(schema: &Schema) {
    let scene = Scene::new("json-looks");
    let (place, name) = (&scene.place, scene.name());
    let node = Node::join(&place.namespace(), "planner").unwrap();
    let queues = schema
        .run("ls", &[&place.0, &format!("shm:{name}")], 0)
        .json();
    assert_eq!(queues[0]["stats"]["leased"], 1);
    schema.run("stat", &[&name], 0);
    schema.run("peek", &[&name], 0);
    schema.run("export", &[&name, "--state", "ready,delayed,dead"], 0);
    schema.run("top", &[&place.0, "--every", "1ms"], 0);
    schema.run("nodes", &[&place.0], 0);
    schema.run("check", &[&name, "--max-dead", "0"], 2);
    let letters = schema.run("dlq-ls", &[&name], 0).json();
    let letter = letters[0]["letter"].as_str().unwrap();
    schema.run("dlq-show", &[&name, letter], 0);
    schema.run("doctor", &[&name], 0);
    drop(node);
    // A queue that can't be opened is also listed.
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    fs::write(folder.file("bad"), "").unwrap();
    schema.check("ls", &folder.run(&["ls", "--json"]).expect(1));
    schema.check("doctor", &folder.run(&["doctor", "--json"]).expect(1));
    schema.check(
        "check",
        &folder.run(&["check", "nosuch", "--json"]).expect(3),
    );
    let mut tail = ipc(&["tail", &name, "--json", "--every", "1ms"]);
    let tail = Running::start(&mut tail);
    schema.check("tail", &first_line(tail));
}

/// Returns the first line of a command that keeps running.
fn first_line(mut running: Running) -> Ended {
    let mut out = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let pid = Pid::from_raw(running.0.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let mut ended = running.end();
    ended.out = line;
    ended.expect(0)
}

fn looks_at_typed_and_served_queues(schema: &Schema) {
    let scene = Scene::new("json-typed");
    let typed = scene.place.name("texts");
    let options = QueueOptions::new().encoding(Encoding::Json);
    let texts: Queue<String> = options.open(format!("shm:{typed}")).unwrap();
    texts.sender().send("resize".to_owned()).unwrap();
    let peeked = schema.run("peek", &[&typed], 0).json();
    assert_eq!(peeked[0]["payload"]["value"], "resize");
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let _server = Running::start(&mut ipc(&["serve", &scene.name(), "--at", &at]));
    wait_until("it is served", || run(&["stat", &at]).code == 0);
    let stat = schema.run("stat", &[&at], 0).json();
    assert_eq!((&stat["file"], &stat["pool"]), (&Value::Null, &Value::Null));
    schema.run("ls", &[&at], 0);
    schema.run("doctor", &[&at], 0);
    schema.run("check", &[&at, "--max-age", "1s"], 3);
    schema.run("top", &[&at, "--every", "1ms"], 0);
    schema.run("dlq-ls", &[&at], 0);
}

/// While messages are acked and none are sent, `top` says when the queue will be empty.
fn empties(schema: &Schema) {
    let place = Place::new("json-empties");
    let queue = place.make("jobs", &QueueOptions::new().capacity(100_000));
    let fill = || while queue.sender().try_send(b"one").is_ok() {};
    let args = ["top", &place.0, "--every", "500ms", "--json"];
    wait_until("it empties", || {
        fill();
        let mut top = Running::start(&mut ipc(&args));
        while top.0.try_wait().unwrap().is_none() {
            queue.receiver().recv().unwrap().ack().unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        let ended = top.end().expect(0);
        schema.check("top", &ended);
        ended.json()["queues"][0]["empty_in_seconds"].is_f64()
    });
}

fn takes(schema: &Schema) {
    let place = Place::new("json-takes");
    let name = place.name("jobs");
    let options = [
        &name[..],
        "--dedup-window",
        "1m",
        "--backoff",
        "none",
        "--lease",
        "1h",
    ];
    schema.run("create", &options, 0);
    schema.run("send", &[&name, "one", "--key", "k", "--header", "a=b"], 0);
    schema.run("send", &[&name, "one", "--key", "k"], 7);
    let lines = run_with(&["send", &name, "--lines", "--json"], "two\nthree\n").expect(0);
    schema.check("send", &lines);
    let received = schema.run("recv", &[&name, "--count", "3"], 0);
    schema.check(
        "import",
        &run_with(&["import", &name, "--json"], &received.out).expect(0),
    );
    let ends = ["true", "exit 1", "exit 65", "kill -9 $$"];
    for end in ends {
        let args = [
            "work", &name, "--count", "1", "--json", "--", "sh", "-c", end,
        ];
        schema.check("work", &run(&args).expect(0));
    }
    let args = ["work", &name, "--count", "1", "--snooze", "1ms", "--json"];
    let snoozed = run(&[&args[..], &["--", "sh", "-c", "exit 75"]].concat()).expect(0);
    schema.check("work", &snoozed);
}

fn controls(schema: &Schema) {
    let scene = Scene::new("json-controls");
    let name = scene.name();
    schema.run("pause", &[&name], 0);
    schema.run("resume", &[&name], 0);
    schema.run("forget", &[&name, "first"], 0);
    schema.run("revoke", &[&name, &scene.held()], 0);
    schema.run("dlq-requeue", &[&name, "--all"], 0);
    schema.run("dlq-drop", &[&name, "--all"], 0);
    schema.run("delete", &[&name, "--limit", "1"], 0);
    schema.run("purge", &[&name], 0);
    drop(scene.worker);
    schema.run("drain", &[&name, "--timeout", "60s"], 0);
    schema.run("reopen", &[&name], 0);
    drop(scene.queue);
    schema.run("rm", &[&name, "--force"], 0);
}

fn carries(schema: &Schema) {
    let scene = Scene::new("json-carries");
    let (name, other) = (scene.name(), scene.place.name("other"));
    drop(scene.worker);
    drop(scene.queue);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved").display().to_string();
    schema.run("save", &[&name, &file], 0);
    schema.run("restore", &[&file, &name], 0);
    schema.run("restore", &[&file, &name, "--if-exists"], 0);
    schema.run("move", &[&name, &other], 0);
    schema.run("move", &[&other, &name, "--limit", "1"], 0);
    // A queue drains only if no message in it is delayed.
    run(&["delete", &other, "--all"]).expect(0);
    schema.run("bridge", &[&other, &name, "--close"], 0);
    // This also works for a queue that is not frozen.
    schema.run("resume", &[&name, "--give-up"], 0);
}

fn serves(schema: &Schema) {
    let folder = tempfile::tempdir().unwrap();
    let at = format!("unix:{}", folder.path().join("x.sock").display());
    let mut serve = ipc(&["serve", "local:jobs", "--at", &at, "--json"]);
    let mut server = Running::start(&mut serve);
    wait_until("it is served", || run(&["send", &at, "one"]).code == 0);
    let pid = Pid::from_raw(server.0.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let mut out = BufReader::new(server.0.stdout.take().unwrap());
    let mut lines = String::new();
    for _ in 0..2 {
        out.read_line(&mut lines).unwrap();
    }
    run(&["recv", &at]).expect(0);
    let mut ended = server.end();
    ended.out = lines;
    schema.check("serve", &ended.expect(0));
    let metrics = ipc(&["metrics", "--listen", "127.0.0.1:0", "--json"])
        .spawn()
        .unwrap();
    schema.check("metrics", &first_line(Running(metrics)));
    let web = ipc(&["web", "--listen", "127.0.0.1:0", "--json"]).spawn();
    schema.check("web", &first_line(Running(web.unwrap())));
}

/// What the page for operators prints, and its figures for programs.
fn serves_a_page(schema: &Schema) {
    let scene = Scene::new("json-web");
    let name = scene.name();
    let web = Web::start(&[&scene.place.0, "--allow-actions"]);
    schema.check_value("web", &web.said);
    web.line(&name);
    let origin = format!("http://{}", web.at);
    let token = web.said["url"].as_str().unwrap();
    let token = token.split_once("#token=").unwrap().1;
    let headers = [("Origin", &origin[..]), ("X-Ipc-Token", token)];
    let documented = documented_requests();
    for (method, path, definition) in &documented {
        let path = path.replace("NAME", &name.replace('/', "%2F"));
        let answer = web.request(method, &path, &headers);
        assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
        schema.check_value(definition, &answer.json());
    }
    let refused = web.request("POST", "/api/pause/no", &headers);
    assert_eq!(refused.status, 404, "{refused:?}");
    schema.check_value("web-error", &refused.json());
    let all = schema.definitions().keys();
    for definition in all.filter(|name| name.starts_with("web-") && *name != "web-error") {
        let mut requests = documented.iter();
        assert!(
            requests.any(|(.., of)| of == definition),
            "docs/json.md has no request for {definition}"
        );
    }
    // A queue that is not there.
    let missing = format!("shm:{}", scene.place.name("missing"));
    let web = Web::start(&[&missing]);
    wait_until("it is unreadable", || {
        let all = web.json("/api/queues");
        schema.check_value("web-queues", &all);
        all["unreadable"][0]["queue"] == missing
    });
}

/// Returns the requests of the table in `docs/json.md`: method, path and definition.
fn documented_requests() -> Vec<(String, String, String)> {
    let document = docs("json.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split("` | `");
        let (method, path) = cells.next()?.split_once(" /api/")?;
        let definition = cells.next()?.split('`').next()?;
        Some((method.into(), format!("/api/{path}"), definition.into()))
    });
    rows.collect()
}

/// Checks a dead letter whose receiver was ended by a signal.
fn dead_receivers(schema: &Schema) {
    let place = Place::new("json-dead");
    let options = QueueOptions::new().crash_limit(1);
    let queue = place.make("jobs", &options);
    queue.sender().send(b"one").unwrap();
    let name = place.name("jobs");
    let worker = Running::start(&mut ipc(&["work", &name, "--", "sleep", "1000"]));
    wait_until("it is held", || {
        queue.transport().stats().unwrap().leased == 1
    });
    drop(worker);
    wait_until("it is dead", || {
        queue.transport().stats().unwrap().dead == 1
    });
    let letters = schema.run("dlq-ls", &[&name], 0).json();
    assert_eq!(letters[0]["reason"], "crashed");
}

#[test]
fn every_command_is_in_the_schema_and_in_the_document() {
    let schema = Schema::new();
    let document = docs("json.md");
    for command in commands() {
        let is_there = schema.definitions().contains_key(&command);
        assert_eq!(is_there, !NEVER.contains(&&command[..]), "{command}");
        let words = command.replacen("dlq-", "dlq ", 1);
        if NEVER.contains(&&command[..]) {
            continue;
        }
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{words}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/json.md has no row of {words}"));
        let shape = match schema.shape(&command) {
            Shape::Array => "| one array |",
            Shape::Object => "| one object |",
            Shape::Lines => "| one object per line |",
        };
        assert!(row.contains(shape), "{row} is not {shape}");
    }
}

#[test]
fn the_help_of_each_command_says_the_shape_of_its_output() {
    let schema = Schema::new();
    for command in commands() {
        let words: Vec<_> = match command.strip_prefix("dlq-") {
            Some(of_dlq) => vec!["dlq", of_dlq, "--help"],
            None => vec![&command[..], "--help"],
        };
        let help = run(&words).expect(0).out;
        let last = help.trim_end().lines().last().unwrap();
        let said = match last {
            _ if NEVER.contains(&&command[..]) => "The output is never JSON.",
            _ => match schema.shape(&command) {
                Shape::Array => "--json: one JSON array.",
                Shape::Object if command == "metrics" => "--listen: one JSON object.",
                Shape::Object => "--json: one JSON object.",
                Shape::Lines => "--json: one JSON object per line.",
            },
        };
        assert!(last.contains(said), "{command}: {last:?} is not {said:?}");
    }
    run(&["metrics", "--json"]).expect(2);
}
