//! Rejected command lines, and their errors.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Place;

#[test]
fn bad_command_lines_are_refused_with_a_correction() {
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
fn help_is_not_an_error_and_names_every_option() {
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
fn a_missing_nats_server_is_an_error_with_advice() {
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

#[test]
fn unreadable_inputs_are_an_error_and_the_others_are_reported() {
    let place = Place::unprivileged();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = ["locked", "empty", "good"].map(|name| fs::create_dir(path(name)));
    assert!(made.iter().all(Result::is_ok));
    fs::write(path("good/file"), "content").unwrap();
    fs::write(path("secret"), "content").unwrap();
    for name in ["locked", "secret"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    for name in ["", "good", "empty"] {
        place.give(&path(name));
    }
    let run = |inputs: &[&str]| {
        let inputs = inputs.iter().map(|name| path(name).into_os_string());
        let args = ["--json", "--workers", "1", "--input"].map(OsString::from);
        place.run(args.into_iter().chain(inputs)).report()
    };
    assert_eq!(run(&["good"]).0, Some(0));
    for (inputs, files) in [
        (&["missing"][..], 1),
        (&["good", "missing"], 2),
        (&["locked", "good"], 2),
        (&["secret"], 1),
        (&["empty"], 0),
    ] {
        let (code, report) = run(inputs);
        assert_eq!(code, Some(3), "{inputs:?}: {report}");
        assert_eq!(
            report["files"].as_array().unwrap().len(),
            files,
            "{inputs:?}: {report}"
        );
    }
    fs::set_permissions(path("locked"), fs::Permissions::from_mode(0o700)).unwrap();
}
