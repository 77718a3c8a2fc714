//! Commands report at once that a queue is paused, closed, or both.

use ipc_queue::QueueOptions;

use crate::place::{Place, run};

#[test]
fn draining_a_paused_queue_fails_at_once() {
    let place = Place::new("paused");
    place.make_with_one("jobs");
    let jobs = place.name("jobs");
    run(&["pause", &jobs]).expect(0);
    let refused = run(&["drain", &jobs]).expect(5);
    assert!(refused.error().contains("--resume"), "{refused:?}");
    let stats = place.look("jobs").unwrap().stats();
    assert_eq!((stats.paused, stats.closed), (true, false));
    run(&["purge", &jobs]).expect(0);
    run(&["drain", &jobs, "--resume"]).expect(0);
    let stats = place.look("jobs").unwrap().stats();
    assert_eq!((stats.paused, stats.closed), (false, true));
}

#[test]
fn a_queue_not_drained_in_time_is_reported_as_closed() {
    let place = Place::new("undrained");
    place.make_with_one("jobs");
    let ended = run(&["drain", &place.name("jobs"), "--timeout", "1ms"]).expect(4);
    assert!(
        ended.error().contains("closed, with 1 messages left"),
        "{ended:?}"
    );
}

#[test]
fn a_closed_and_paused_queue_is_reported_as_both() {
    let place = Place::new("both");
    let queue = place.make("jobs", &QueueOptions::new());
    queue.transport().close().unwrap();
    let jobs = place.name("jobs");
    run(&["pause", &jobs]).expect(0);
    for look in [&["ls", &place.0][..], &["stat", &jobs]] {
        let shown = run(look).expect(0).out;
        assert!(shown.contains("closed, paused"), "{shown}");
    }
    let top = run(&["top", &place.0, "--once", "--every", "1ms"])
        .expect(0)
        .out;
    assert!(top.contains("closed, paused"), "{top}");
    let resumed = run(&["resume", &jobs]).expect(0).out;
    assert!(
        resumed.contains("is closed and takes nothing more until"),
        "{resumed}"
    );
}

#[test]
fn a_closed_queue_can_be_reopened() {
    let place = Place::new("reopened");
    place.make("jobs", &QueueOptions::new());
    let jobs = place.name("jobs");
    run(&["drain", &jobs]).expect(0);
    let refused = run(&["send", &jobs, "one"]).expect(5);
    assert!(
        refused.error().contains(&format!("ipc reopen {jobs}")),
        "{refused:?}"
    );
    run(&["pause", &jobs]).expect(0);
    let reopened = run(&["reopen", &jobs]).expect(0).out;
    assert!(
        reopened.contains(&format!("ipc resume {jobs}")),
        "{reopened}"
    );
    run(&["send", &jobs, "one"]).expect(0);
    let stats = place.look("jobs").unwrap().stats();
    assert_eq!((stats.ready, stats.closed), (1, false));
}

#[test]
fn the_other_queues_are_removed_if_one_is_missing() {
    let place = Place::new("some");
    for name in ["a", "b"] {
        place.make(name, &QueueOptions::new());
    }
    let names = ["a", "nosuch", "b"].map(|name| place.name(name));
    let [a, nosuch, b] = names.each_ref().map(String::as_str);
    let ended = run(&["rm", a, nosuch, b]).expect(3);
    assert!(ended.error().contains("nosuch"), "{ended:?}");
    assert!(place.look("a").is_none() && place.look("b").is_none());
}

#[test]
fn a_mistake_on_the_command_line_removes_nothing() {
    let place = Place::new("mistake");
    place.make("good", &QueueOptions::new());
    run(&["rm", &place.name("good"), "Bad", "--force"]).expect(2);
    assert!(place.look("good").is_some());
}

#[test]
fn of_several_failures_the_gravest_decides() {
    let place = Place::new("gravest");
    place.make_with_one("full");
    place.make("empty", &QueueOptions::new());
    let names = ["nosuch", "full", "empty"].map(|name| place.name(name));
    let [nosuch, full, empty] = names.each_ref().map(String::as_str);
    let ended = run(&["rm", nosuch, full, empty, "local:mine"]).expect(5);
    for part in ["nosuch", "holds 1 messages", "local:mine"] {
        assert!(ended.error().contains(part), "{ended:?}");
    }
    assert!(place.look("full").is_some() && place.look("empty").is_none());
}
