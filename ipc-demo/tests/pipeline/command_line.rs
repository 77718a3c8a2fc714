//! What is refused, and how.

use crate::support::Place;

#[test]
fn bad_command_lines_are_refused_with_what_would_do() {
    let place = Place::new();
    let refused: [(&[&str], &str); 6] = [
        (
            &["--transport", "pigeon"],
            "[possible values: local, shm, unix]",
        ),
        (&["--workers", "0"], "0 is not in 1..=60"),
        (&["--simulate", "0"], "0 is not in 1..=1000000"),
        (
            &["--input", ".", "--simulate", "5"],
            "cannot be used with '--simulate <N>'",
        ),
        (&["--colour"], "unexpected argument '--colour'"),
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
        "--json",
        "--timeline",
    ] {
        assert!(ended.stdout.contains(option), "{option}: {ended:?}");
    }
}
