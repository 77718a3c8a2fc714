//! Figures for scrapers, checks for monitoring programs, and the files in `docs` for them.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use ipc_queue::QueueOptions;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::doctor::Folder;
use crate::place::{Ended, Place, Running, ipc, run};
use crate::signals::signal;

/// A process that serves figures at a port.
struct Served {
    running: Running,
    at: String,
    _said: BufReader<std::process::ChildStdout>,
}

impl Served {
    fn start(args: &[&str]) -> Self {
        let mut running = Running::start(&mut ipc(args));
        let mut said = BufReader::new(running.0.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("http://").unwrap();
        let at = at.split_once('/').unwrap().0.to_owned();
        Self {
            running,
            at,
            _said: said,
        }
    }

    /// Returns the head and the body of the answer.
    fn ask(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.at).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str, host: &str, more: &str) -> (String, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"
        ))
    }
}

/// Returns a folder with two queues and nothing else.
fn two_queues() -> Folder {
    let folder = Folder::new();
    for (queue, messages) in [("jobs", 2), ("media/resize", 1)] {
        folder.run(&["create", queue]).expect(0);
        for _ in 0..messages {
            folder.run(&["send", queue, "one"]).expect(0);
        }
    }
    folder
}

#[test]
fn figures_of_all_queues_have_one_head_each() {
    let folder = two_queues();
    let text = folder.run(&["metrics"]).expect(0).out;
    for line in [
        "ipc_queue_ready{queue=\"jobs\"} 2",
        "ipc_queue_ready{queue=\"media/resize\"} 1",
        "ipc_queue_up{queue=\"jobs\"} 1",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line} in\n{text}");
    }
    assert_eq!(
        text.matches("# TYPE ipc_queue_ready gauge").count(),
        1,
        "{text}"
    );
    let open = folder.run(&["metrics", "--openmetrics"]).expect(0).out;
    assert!(open.contains("# TYPE ipc_queue_sent counter\n"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    // A missing queue is a figure, and an error.
    let ended = folder.run(&["metrics", "jobs", "nosuch"]).expect(3);
    assert!(
        ended.out.contains("ipc_queue_up{queue=\"nosuch\"} 0"),
        "{ended:?}"
    );
    assert!(
        ended.out.contains("ipc_queue_ready{queue=\"jobs\"} 2"),
        "{ended:?}"
    );
}

#[test]
fn figures_are_served_to_scrapers_and_not_to_other_sites() {
    let place = Place::new("scrape");
    let queue = place.make_with_one("jobs");
    let name = place.name("jobs");
    let served = Served::start(&["metrics", &name, "--listen", "127.0.0.1:0"]);
    let ready = |count: u64| format!("ipc_queue_ready{{queue=\"{name}\"}} {count}");
    let (head, body) = served.get("/metrics", &served.at, "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains(&ready(1)), "{body}");
    queue.sender().send(b"two").unwrap();
    let accept = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let (head, body) = served.get("/metrics", "localhost:1", accept);
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(
        body.contains(&ready(2)) && body.ends_with("# EOF\n"),
        "{body}"
    );
    // A host name that another site pointed at this address.
    let (head, body) = served.get("/metrics", "evil.example:9464", "");
    assert!(
        head.starts_with("HTTP/1.1 421") && !body.contains("jobs"),
        "{head}\n{body}"
    );
    assert!(body.contains("use the address that ipc metrics printed"));
    assert!(
        served
            .get("/", "localhost", "")
            .0
            .starts_with("HTTP/1.1 404")
    );
    let post = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(served.ask(post).0.starts_with("HTTP/1.1 405"));
    // A queue that is gone is a figure.
    run(&["rm", "--force", &name]).expect(0);
    let (head, body) = served.get("/metrics", "[::1]", "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        body.contains(&format!("ipc_queue_up{{queue=\"{name}\"}} 0")),
        "{body}"
    );
    signal(&served.running, Signal::SIGTERM);
    served.running.end().expect(0);
}

/// A queue with a waiting message and a dead letter.
fn one_waits_one_is_dead(place: &Place) -> String {
    let queue = place.make("jobs", &QueueOptions::new());
    for payload in [b"one", b"two"] {
        queue.sender().send(payload).unwrap();
    }
    queue.receiver().recv().unwrap().bury().unwrap();
    place.name("jobs")
}

/// Asserts that a check ended with this code, and said this on its only line.
#[track_caller]
fn checked(ended: Ended, code: i32, begin: &str, part: &str) {
    assert_eq!(ended.code, code, "{ended:?}");
    let [line] = ended.out.lines().collect::<Vec<_>>()[..] else {
        panic!("not one line: {ended:?}");
    };
    assert!(line.starts_with(begin) && line.contains(part), "{ended:?}");
}

#[test]
fn a_check_ends_with_the_codes_of_monitoring_programs() {
    let place = Place::new("check");
    let name = one_waits_one_is_dead(&place);
    let check = |args: &[&str]| -> Ended { run(&[&["check", &name], args].concat()) };
    checked(check(&[]), 0, "OK - ", "depth 1, dead 1");
    let all = ["--max-depth", "1", "--max-dead", "1", "--max-age", "1h"];
    checked(check(&all), 0, "OK - ", "age=");
    let figures = "| depth=1;;1 dead=1;;";
    checked(check(&["--max-depth", "1"]), 0, "OK - ", figures);
    let depth = check(&["--max-depth", "0"]);
    checked(depth, 2, "CRITICAL - ", "depth 1 is above 0");
    let dead = check(&["--warn-dead", "0"]);
    checked(dead, 1, "WARNING - ", "dead 1 is above 0");
    let both = check(&["--warn-dead", "0", "--max-dead", "0"]);
    checked(both, 2, "CRITICAL - ", "dead 1");
    checked(check(&["--max-age", "0s"]), 2, "CRITICAL - ", "age ");
    assert_eq!(check(&["--max-depth", "many"]).code, 3);
    assert_eq!(run(&["check"]).code, 3);
    let json = check(&["--max-depth", "0", "--json"]).json();
    assert_eq!(
        (&json["state"], &json["queues"][0]["state"]),
        (&"CRITICAL".into(), &"CRITICAL".into())
    );
}

#[test]
fn an_unknown_queue_does_not_hide_another_that_is_certainly_bad() {
    let place = Place::new("check-unknown");
    let name = one_waits_one_is_dead(&place);
    let nosuch = place.name("nosuch");
    checked(run(&["check", &nosuch]), 3, "UNKNOWN - ", "nosuch");
    let bad = run(&["check", &name, &nosuch, "--max-dead", "0"]);
    checked(bad, 2, "CRITICAL - ", "dead 1");
    checked(run(&["check", &name, &nosuch]), 3, "UNKNOWN - ", "nosuch");
}

/// Returns the names of the figures in a text.
fn names(text: &str) -> HashSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = text
        .split(word)
        .filter(|word| word.starts_with("ipc_queue_"));
    words.map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_alarms_use_existing_figures() {
    let place = Place::new("dashboard");
    place.make("jobs", &QueueOptions::new());
    let there = names(&run(&["metrics", &place.name("jobs")]).expect(0).out);
    let dashboard = include_str!("../../../docs/operations/grafana.json");
    let alerts = include_str!("../../../docs/operations/alerts.yml");
    let panels: Value = serde_json::from_str(dashboard).unwrap();
    assert!(panels["panels"].as_array().unwrap().len() > 5);
    for text in [dashboard, alerts] {
        let asked = names(text);
        assert!(asked.len() > 5);
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
