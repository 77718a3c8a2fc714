//! What is refused, and how.

use crate::support::Place;

#[test]
fn bad_command_lines_are_refused_with_what_would_do() {
    let place = Place::new();
    let refused: [(&[&str], &str); 8] = [
        (
            &["--transport", "pigeon"],
            "[possible values: local, shm, unix, nats]",
        ),
        (&["--workers", "0"], "0 is not in 1..=60"),
        (&["--simulate", "0"], "0 is not in 1..=1000000"),
        (
            &["--input", ".", "--simulate", "5"],
            "cannot be used with '--simulate <N>'",
        ),
        (&["--colour"], "unexpected argument '--colour'"),
        (&["--at", "nats://server"], "'--transport nats' only"),
        (
            &["--transport", "nats", "--at", "server:4222"],
            "nats://HOST",
        ),
        (&["host", "--name", "helper"], "--at <ADDRESS>"),
    ];
    for (args, words) in refused {
        let ended = place.run(args);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
}

#[test]
fn help_is_no_error_and_names_every_option() {
    let place = Place::new();
    let ended = place.run(["--help"]);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    for option in [
        "--input",
        "--simulate",
        "--workers",
        "--kill-workers",
        "--transport",
        "--at",
        "--json",
        "--timeline",
    ] {
        assert!(ended.stdout.contains(option), "{option}: {ended:?}");
    }
}

#[test]
fn without_a_nats_server_it_says_what_is_missing_and_what_to_do() {
    let place = Place::new();
    let mut demo = place.demo(["--simulate", "3", "--transport", "nats"]);
    demo.env("PATH", "/nonexistent");
    let ended = place.start_command(demo).end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in ["no nats-server", "install it", "--at nats://HOST:PORT"] {
        assert!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
}

#[test]
fn a_nats_server_that_does_not_answer_is_named() {
    let place = Place::new();
    let ended = place.run([
        "--simulate",
        "3",
        "--transport",
        "nats",
        "--at",
        "nats://127.0.0.1:1",
    ]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("127.0.0.1:1"), "{ended:?}");
}
