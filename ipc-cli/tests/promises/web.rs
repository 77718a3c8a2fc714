//! The operators' page over plain HTTP: what it answers, and which requests and users it refuses.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command};

use ipc_queue::{ByteQueue, QueueOptions};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::doctor::Folder;
use crate::place::{Place, Running, ipc, program, run, wait_until};
use crate::signals::signal;

/// A running `ipc web` at its own port.
pub struct Web {
    pub running: Running,
    /// `127.0.0.1:PORT`
    pub at: String,
    /// Its output.
    pub said: Value,
    _out: BufReader<ChildStdout>,
}

impl Web {
    pub fn start(args: &[&str]) -> Self {
        Self::started(&mut Self::command(args))
    }

    /// Returns the command that serves at a free port, with these arguments too.
    pub fn command(args: &[&str]) -> Command {
        let common = [
            "web",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--every",
            "20ms",
        ];
        ipc(&[&common, args].concat())
    }

    pub fn started(command: &mut Command) -> Self {
        let mut running = Running::start(command);
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let at = said["serves"].as_str().unwrap();
        let at = at.strip_prefix("http://").unwrap().trim_end_matches('/');
        let at = at.to_owned();
        Self {
            running,
            at,
            said,
            _out: out,
        }
    }

    /// Sends a complete request, and returns the answer.
    pub fn ask(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Sends a request with the headers that its own page sends, and these.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("Host", &self.at[..])];
        all.retain(|(name, _)| !headers.iter().any(|(given, _)| given == name));
        all.extend(headers);
        let lines = all
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        self.ask(&format!("{method} {path} HTTP/1.1\r\n{lines}\r\n"))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[])
    }

    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Waits for the row of a queue, and returns it.
    pub fn line(&self, queue: &str) -> Value {
        let mut found = None;
        wait_until("the queue is listed", || {
            let all = self.json("/api/queues");
            found = row(&all["queues"], queue).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The headers, in lower case.
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

fn row<'v>(rows: &'v Value, queue: &str) -> Option<&'v Value> {
    let rows = rows.as_array().unwrap();
    rows.iter().find(|row| row["queue"] == queue)
}

/// Returns a path of the API, with the name encoded as browsers do.
pub fn path(kind: &str, queue: &str) -> String {
    format!("/api/{kind}/{}", queue.replace('/', "%2F"))
}

/// Creates a queue with two waiting messages and a dead letter.
fn jobs(place: &Place) -> (ByteQueue, String) {
    let queue = place.make("jobs", &QueueOptions::new().capacity(8));
    for payload in [b"one", b"two"] {
        queue.sender().send(payload).unwrap();
    }
    queue.sender().send(b"bad").unwrap();
    let receiver = queue.receiver();
    let (one, two) = (receiver.recv().unwrap(), receiver.recv().unwrap());
    receiver.recv().unwrap().bury().unwrap();
    one.snooze(std::time::Duration::ZERO).unwrap();
    two.snooze(std::time::Duration::ZERO).unwrap();
    (queue, place.name("jobs"))
}

#[test]
fn the_page_shows_the_figures_of_stat_top_and_dlq() {
    let place = Place::new("web-figures");
    let (queue, name) = jobs(&place);
    let receiver = queue.receiver();
    let held = receiver.recv().unwrap();
    let web = Web::start(&[&place.0]);
    // Ages and rates change all the time.
    let without_ages = |mut value: Value| {
        let object = value.as_object_mut().unwrap();
        object.remove("oldest_seconds");
        if let Some(leases) = object.get_mut("leases") {
            leases[0]["held_at_least_seconds"] = Value::Null;
            leases[0]["held_at_most_seconds"] = Value::Null;
        }
        object.retain(|name, _| !name.ends_with("per_second"));
        value
    };
    let stat = run(&["stat", &name, "--json"]).expect(0).json();
    let shown = web.json(&path("queues", &name));
    assert_eq!(without_ages(shown.clone()), without_ages(stat));
    assert_eq!(
        [
            &shown["stats"]["ready"],
            &shown["stats"]["leased"],
            &shown["stats"]["dead"]
        ],
        [1, 1, 1]
    );
    assert_eq!(shown["leases"][0]["pid"], std::process::id());
    let top = run(&["top", &place.0, "--json", "--every", "1ms"])
        .expect(0)
        .json();
    let line = row(&top["queues"], &name).unwrap().clone();
    assert_eq!(without_ages(web.line(&name)), without_ages(line));
    // The path may also contain the name without encoding.
    let plain = web.json(&format!("/api/queues/{name}"));
    assert_eq!(plain["queue"], name);
    let letters = web.json(&path("dead", &name));
    let listed = run(&["dlq", "ls", &name, "--json"]).expect(0).json();
    assert_eq!(letters[0]["letter"], listed[0]["letter"]);
    assert_eq!(letters[0]["reason"], "buried");
    assert_eq!(
        letters[0]["payload"],
        json!({ "excerpt": "bad", "bytes": 3 })
    );
    let history = web.json(&path("history", &name));
    assert_eq!(history["ready"][0], 1);
    assert_eq!(history["dead"][0], 1);
    held.ack().unwrap();
}

#[test]
fn every_answer_has_the_headers_that_protect_it() {
    let place = Place::new("web-headers");
    let (_queue, name) = jobs(&place);
    let web = Web::start(&[&place.0]);
    web.line(&name);
    let files = [
        "/",
        "/page.js",
        "/plot.js",
        "/page.css",
        "/icon.svg",
        "/queue/x",
    ];
    for path in files
        .iter()
        .chain(&["/api/queues", "/no", "/api/queues/no"])
    {
        for method in ["GET", "HEAD", "POST"] {
            let answer = web.request(method, path, &[("Origin", "http://evil.example")]);
            let policy = answer.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'self';"), "{answer:?}");
            assert!(policy.contains("frame-ancestors 'none'"), "{answer:?}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("x-frame-options"), Some("deny"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert!(!answer.head.contains("access-control"), "{answer:?}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{answer:?}");
        }
    }
    for path in files {
        assert_eq!(web.get(path).status, 200, "{path}");
        // Nothing is loaded from elsewhere. The namespace of SVG is an address, but not loaded.
        let body = web.get(path).body.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !body.contains("http://") && !body.contains("https://"),
            "{path}"
        );
    }
}

#[test]
fn a_host_name_that_another_site_points_here_is_refused() {
    let place = Place::new("web-host");
    let (_queue, name) = jobs(&place);
    let web = Web::start(&[&place.0, "--allow-host", "box.example"]);
    web.line(&name);
    let of_queue = path("queues", &name);
    for path in ["/", "/api/queues", &of_queue] {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "box.example.evil",
            "",
            "[::1",
        ] {
            let answer = web.request("GET", path, &[("Host", host)]);
            let is_address = host == "[::1";
            assert_eq!(answer.status == 421, !is_address, "{host}: {answer:?}");
            assert!(is_address || !answer.body.contains(&name), "{answer:?}");
        }
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "[::1]:80",
            "box.example:9465",
        ] {
            assert_eq!(
                web.request("GET", path, &[("Host", host)]).status,
                200,
                "{host}"
            );
        }
    }
    assert_eq!(web.ask("GET /api/queues HTTP/1.0\r\n\r\n").status, 421);
}

#[test]
fn pages_of_other_sites_get_no_figures() {
    let place = Place::new("web-site");
    let (_queue, name) = jobs(&place);
    let web = Web::start(&[&place.0]);
    web.line(&name);
    for from in ["cross-site", "same-site"] {
        let site = [("Sec-Fetch-Site", from)];
        let answer = web.request("GET", "/api/queues", &site);
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(!answer.body.contains(&name), "{answer:?}");
        // A link to the page is followed.
        assert_eq!(web.request("GET", "/", &site).status, 200);
    }
    for from in ["same-origin", "none"] {
        let site = [("Sec-Fetch-Site", from)];
        assert_eq!(web.request("GET", "/api/queues", &site).status, 200);
    }
}

#[test]
fn nothing_changes_a_queue_unless_actions_are_allowed() {
    let place = Place::new("web-read");
    let (queue, name) = jobs(&place);
    let web = Web::start(&[&place.0]);
    web.line(&name);
    assert_eq!(web.said["actions"], false);
    let origin = format!("http://{}", web.at);
    let of_page = [("Origin", &origin[..]), ("X-Ipc-Token", "")];
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        for action in ["pause", "resume", "requeue"] {
            let answer = web.request(method, &path(action, &name), &of_page);
            assert_eq!(answer.status, 405, "{answer:?}");
            assert_eq!(answer.header("allow"), Some("get, head"));
        }
    }
    assert_eq!(web.get(&path("pause", &name)).status, 404);
    let stats = queue.transport().stats().unwrap();
    assert_eq!((stats.paused, stats.dead, stats.ready), (false, 1, 2));
    assert_eq!(web.json("/api/queues")["actions"], false);
}

#[test]
fn an_action_needs_the_token_and_the_servers_own_page() {
    let place = Place::new("web-act");
    let (queue, name) = jobs(&place);
    let web = Web::start(&[&place.0, "--allow-actions"]);
    web.line(&name);
    let url = web.said["url"].as_str().unwrap();
    let token = url.split_once("/#token=").unwrap().1;
    assert_eq!(token.len(), 32, "{url}");
    let ours = format!("http://{}", web.at);
    let stats = || queue.transport().stats().unwrap();
    let wrong = token.replace(|digit: char| digit.is_ascii_digit(), "f");
    for (origin, given) in [
        ("", token),
        ("null", token),
        ("http://evil.example", token),
        ("http://localhost:1", token),
        (&ours, ""),
        (&ours, &wrong),
        (&ours, &token[1..]),
    ] {
        let headers = [("Origin", origin), ("X-Ipc-Token", given)];
        let answer = web.request("POST", &path("pause", &name), &headers);
        assert_eq!(answer.status, 403, "{origin} {given}: {answer:?}");
        assert!(!answer.body.contains(token), "{answer:?}");
    }
    assert!(!stats().paused);
    // The server never sends the token.
    for path in ["/", "/page.js", "/api/queues"] {
        assert!(!web.get(path).body.contains(token), "{path}");
    }
    let act = |action: &str| {
        let headers = [("Origin", &ours[..]), ("X-Ipc-Token", token)];
        let answer = web.request("POST", &path(action, &name), &headers);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["done"].as_str().unwrap().to_owned()
    };
    assert_eq!(act("pause"), format!("{name} is paused"));
    assert!(stats().paused);
    act("resume");
    assert!(!stats().paused);
    assert_eq!(act("requeue"), "1 requeued");
    assert_eq!((stats().dead, stats().ready), (0, 3));
    let headers = [("Origin", &ours[..]), ("X-Ipc-Token", token)];
    for other in [
        path("drain", &name),
        path("pause", "no"),
        "/api/pause".to_owned(),
    ] {
        assert_eq!(web.request("POST", &other, &headers).status, 404, "{other}");
    }
}

#[test]
fn only_watched_queues_can_be_requested() {
    let (place, other) = (Place::new("web-scope"), Place::new("web-beyond"));
    let (_queue, name) = jobs(&place);
    let (_other, beyond) = jobs(&other);
    let web = Web::start(&[&place.0]);
    web.line(&name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = format!("nats:%2F%2F{}%2Fjobs", listener.local_addr().unwrap());
    for queue in [&beyond, &format!("shm:{name}"), &server, "%ff", "..", ""] {
        for kind in ["queues", "dead", "history"] {
            if (kind, queue) == ("queues", "") {
                continue; // All of them.
            }
            let answer = web.get(&format!("/api/{kind}/{queue}"));
            assert_eq!(answer.status, 404, "{queue}: {answer:?}");
        }
    }
    // The server made no connection.
    assert!(listener.accept().is_err());
}

#[test]
fn an_unreadable_queue_is_shown_with_its_error() {
    let folder = Folder::new();
    folder.run(&["create", "jobs"]).expect(0);
    folder.run(&["create", "broken"]).expect(0);
    fs::write(folder.file("broken"), [7; 8192]).unwrap();
    let web = Web::started(Web::command(&[]).env("IPC_SHM_DIR", folder.0.path()));
    web.line("jobs");
    let all = web.json("/api/queues");
    let bad = row(&all["unreadable"], "broken").unwrap();
    assert!(
        bad["error"].as_str().unwrap().contains("broken.queue"),
        "{bad}"
    );
    assert!(web.get("/api/queues/broken").json()["error"].is_string());
    // The same for a queue that does not exist, until it is created.
    let place = Place::new("web-later");
    let later = format!("shm:{}", place.name("later"));
    let web = Web::start(&[&later]);
    wait_until("its absence is shown", || {
        let all = web.json("/api/queues");
        let bad = row(&all["unreadable"], &later).map(|bad| bad["error"].to_string());
        bad.is_some_and(|error| error.contains("there is no queue"))
    });
    let queue = place.make("later", &QueueOptions::new());
    web.line(&later);
    assert_eq!(web.json("/api/queues")["unreadable"], json!([]));
    // If the queue is created again, the new one is shown.
    drop(queue);
    run(&["rm", &later]).expect(0);
    place.make("later", &QueueOptions::new().capacity(3));
    wait_until("the new queue is shown", || {
        web.line(&later)["capacity"] == 3
    });
}

#[test]
fn a_client_that_hangs_does_not_block_others_and_connections_are_bounded() {
    let place = Place::new("web-slow");
    let (_queue, name) = jobs(&place);
    let web = Web::start(&[&place.0]);
    web.line(&name);
    let mut hanging = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(&web.at).unwrap();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n",
            path("queues", &name),
            web.at
        );
        // The connection may be closed by now.
        let _ = match number % 3 {
            0 => Ok(()),
            1 => stream.write_all(request.as_bytes()),
            // This client does not read the answer.
            _ => stream.write_all(format!("{request}\r\n").as_bytes()),
        };
        hanging.push(stream);
        if number % 50 == 49 {
            assert_eq!(web.json(&path("queues", &name))["stats"]["ready"], 2);
        }
    }
    let descriptors = format!("/proc/{}/fd", web.running.0.id());
    let sockets = fs::read_dir(descriptors).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    });
    let sockets = sockets.count();
    assert!(sockets < 100, "{sockets} sockets are open");
    assert_eq!(web.json("/api/queues")["queues"][0]["queue"], name);
    // An endless head is not buffered.
    let mut endless = TcpStream::connect(&web.at).unwrap();
    endless.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let header = [b"X: ", &[b'x'; 4000][..], b"\r\n"].concat();
    wait_until("it is refused", || endless.write_all(&header).is_err());
    let _ = endless.shutdown(Shutdown::Both);
}

#[test]
fn a_server_that_does_not_answer_delays_only_requests_for_its_queue() {
    let place = Place::new("web-silent");
    let (_queue, name) = jobs(&place);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("x.sock");
    // This server accepts connections and never answers.
    let _silent = UnixListener::bind(&socket).unwrap();
    let silent = format!("unix:{}", socket.display());
    let shared = format!("shm:{name}");
    let web = Web::start(&[&shared, &silent]);
    web.line(&shared);
    let path = path("queues", &silent);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", web.at);
    let mut waiting: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = TcpStream::connect(&web.at).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_until("one waits for the answer", || {
        let answer = web.get(&path);
        answer.status == 503 && answer.body.contains("has not answered")
    });
    assert_eq!(web.json("/api/queues")["queues"][0]["queue"], shared);
    signal(&web.running, Signal::SIGTERM);
    web.running.end().expect(0);
    waiting.clear();
}

#[test]
fn another_user_of_the_machine_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: another user of the machine: only root can be another");
        return;
    }
    let place = Place::new("web-user");
    let (_queue, name) = jobs(&place);
    let as_another = |web: &Web| {
        let (host, port) = web.at.split_once(':').unwrap();
        let script = format!(
            "exec 3<>/dev/tcp/{host}/{port}; \
             printf 'GET /api/queues HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' >&3; cat <&3"
        );
        let mut shell = program("bash");
        shell.args(["-c", &script]).uid(65534).gid(65534);
        String::from_utf8(shell.output().unwrap().stdout).unwrap()
    };
    let web = Web::start(&[&place.0]);
    web.line(&name);
    let answer = as_another(&web);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.contains("user 65534 asks") && !answer.contains(&name),
        "{answer}"
    );
    let web = Web::start(&[&place.0, "--any-user"]);
    web.line(&name);
    let answer = as_another(&web);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(&name),
        "{answer}"
    );
}

#[test]
fn an_unusable_or_unsafe_listen_address_is_an_error_with_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let ended = run(&["web", "--listen", &at]).expect(1);
    assert!(ended.error().contains(&at), "{ended:?}");
    assert!(ended.error().contains("port 0 for a free one"), "{ended:?}");
    for at in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let ended = run(&["web", "--listen", at]).expect(5);
        let error = ended.error();
        assert!(
            error.contains("--allow-remote") && error.contains("ssh -L"),
            "{ended:?}"
        );
        assert!(ended.out.is_empty(), "{ended:?}");
    }
    let ended = run(&["web", "--listen", "192.0.2.1:80", "--allow-remote"]).expect(1);
    assert!(
        ended.error().contains("does not have this address"),
        "{ended:?}"
    );
    run(&["web", "local:jobs", "--listen", "127.0.0.1:0"]).expect(5);
    run(&["web", "one", "two"]).expect(2);
}

#[test]
fn a_page_for_other_machines_is_served_once_allowed() {
    let place = Place::new("web-remote");
    let (_queue, name) = jobs(&place);
    let args = [
        "web",
        &place.0,
        "--json",
        "--listen",
        "0.0.0.0:0",
        "--allow-remote",
    ];
    let mut web = Web::started(&mut ipc(&args));
    web.at = web.at.replace("0.0.0.0", "127.0.0.1");
    web.line(&name);
    let evil = [("Host", "evil.example")];
    assert_eq!(web.request("GET", "/", &evil).status, 421);
    signal(&web.running, Signal::SIGTERM);
    let ended = web.running.end().expect(0);
    assert!(
        ended.err.contains("note: nothing is encrypted"),
        "{ended:?}"
    );
}

#[test]
fn the_chosen_port_is_printed_and_each_page_has_another_token() {
    let start = |json: &[&str]| {
        let args = ["web", "--listen", "127.0.0.1:0", "--allow-actions"];
        let mut running = Running::start(&mut ipc(&[&args, json].concat()));
        let mut out = BufReader::new(running.0.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    let lines = [start(&[]), start(&[])];
    let tokens = lines.iter().map(|line| {
        let rest = line.trim().strip_prefix("http://127.0.0.1:").unwrap();
        let (port, token) = rest.split_once("/#token=").unwrap();
        assert_ne!(port.parse::<u16>().unwrap(), 0);
        token
    });
    assert_eq!(tokens.collect::<HashSet<_>>().len(), 2, "{lines:?}");
    let said: Value = serde_json::from_str(&start(&["--json"])).unwrap();
    let names: Vec<_> = said.as_object().unwrap().keys().collect();
    assert_eq!(names, ["actions", "pid", "serves", "url"]);
}

#[test]
fn each_end_signal_ends_the_page_with_0() {
    for end in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGQUIT,
    ] {
        let place = Place::new("web-end");
        let (queue, name) = jobs(&place);
        let web = Web::start(&[&place.0]);
        web.line(&name);
        // A silent client does not delay the end.
        let _hanging = TcpStream::connect(&web.at).unwrap();
        signal(&web.running, end);
        web.running.end().expect(0);
        assert_eq!(queue.transport().stats().unwrap().ready, 2);
    }
}
