//! Simulated tasks: the reports about them, and where these are written.

use crate::support::Place;

#[test]
fn json_is_alone_on_stdout_and_has_every_task_once() {
    let place = Place::new();
    let ended = place.run(["--simulate", "12", "--json"]);
    let report = ended.exact_report(12);
    assert_eq!(report["distinct"], 12);
    assert_eq!(report["files"].as_array().unwrap().len(), 0);
}

#[test]
fn text_has_every_nodes_statistics_and_a_line_for_every_ten_tasks() {
    let place = Place::new();
    let ended = place.run(["--simulate", "25", "--workers", "3"]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let rows = |name: &str| {
        let lines = ended.stdout.lines();
        lines
            .filter(|line| line.trim_start().starts_with(name))
            .count()
    };
    // Once in the list of workers, once in the list of nodes.
    assert_eq!(
        ["worker-1", "worker-2", "worker-3"].map(rows),
        [2; 3],
        "{ended:?}"
    );
    assert_eq!((rows("coordinator"), rows("worker-4")), (1, 0), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines, ["10 of 25 tasks done", "20 of 25 tasks done"]);
}

#[test]
fn a_reader_that_leaves_causes_no_panic() {
    let place = Place::new();
    for args in [&["--simulate", "10"][..], &["--simulate", "10", "--json"]] {
        let mut demo = place.demo(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = demo
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}
