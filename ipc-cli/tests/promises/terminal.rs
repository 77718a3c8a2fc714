//! Terminals of all kinds: narrow ones, and ones without colors.

use std::process::Stdio;

use ipc_queue::QueueOptions;

use crate::place::{Ended, Place, full_disk, ipc, program, say_skipped};

/// Runs the command on its own terminal, and returns what it wrote there.
fn on_a_terminal(columns: u16, args: &[&str], environment: &[(&str, &str)]) -> Option<String> {
    let ipc = env!("CARGO_BIN_EXE_ipc");
    let line = format!("stty cols {columns} rows 24; {ipc} {}", args.join(" "));
    let mut script = program("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env_remove("NO_COLOR").env("TERM", "xterm-256color");
    script
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    let Ok(output) = script.output() else {
        say_skipped("terminals", "there is no program `script`");
        return None;
    };
    let ended = Ended::from(output);
    assert_eq!(ended.code, 0, "{ended:?}");
    Some(ended.out.replace('\r', ""))
}

#[test]
fn colors_depend_on_the_terminal_and_the_users_wish() {
    let place = Place::new("colors");
    let queue = place.make("jobs", &QueueOptions::new());
    queue.transport().close().unwrap();
    let look = |environment| on_a_terminal(100, &["ls", &place.0], environment);
    let Some(colored) = look(&[]) else { return };
    assert!(colored.contains('\x1b'), "{colored:?}");
    for plainly in [&[("TERM", "dumb")], &[("NO_COLOR", "1")], &[("TERM", "")]] {
        let plain = look(plainly).unwrap();
        assert!(
            plain.contains("jobs") && !plain.contains('\x1b'),
            "{plain:?}"
        );
    }
    // An empty NO_COLOR has no effect.
    assert!(look(&[("NO_COLOR", "")]).unwrap().contains('\x1b'));
}

#[test]
fn a_narrow_terminal_shows_a_queue_on_one_line() {
    let place = Place::new("narrow");
    for name in ["jobs", "letters"] {
        place
            .make(name, &QueueOptions::new())
            .sender()
            .send(b"one")
            .unwrap();
    }
    let Some(listed) = on_a_terminal(40, &["ls", &place.0], &[("NO_COLOR", "1")]) else {
        return;
    };
    assert_eq!(listed.trim_end().lines().count(), 3, "{listed}");
    for line in listed.lines() {
        assert!(line.trim_end().chars().count() <= 40, "{listed}");
    }
    for word in ["queue", "ready", "state", &place.name("jobs"), "open"] {
        assert!(listed.contains(word), "no {word} in\n{listed}");
    }
}

#[test]
fn top_prints_once_without_a_terminal() {
    let place = Place::new("dumb");
    place.make("jobs", &QueueOptions::new());
    let args = ["top", &place.0, "--every", "1ms", "--width", "200"];
    let Some(printed) = on_a_terminal(100, &args, &[("TERM", "dumb")]) else {
        return;
    };
    assert!(
        printed.contains("jobs") && !printed.contains('\x1b'),
        "{printed:?}"
    );
}

#[test]
fn completions_that_cannot_be_written_are_an_error_and_not_a_panic() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = Ended::of(ipc(&["completions", shell]).stdout(full_disk())).expect(1);
        assert!(ended.error().contains("No space left"), "{ended:?}");
    }
}

#[test]
fn an_error_that_cannot_be_written_causes_no_panic() {
    let ended = Ended::of(ipc(&["stat", "no/such"]).stderr(full_disk()));
    assert_eq!(ended.code, 3);
}

#[test]
fn a_path_that_is_not_text_is_shown_as_well_as_possible() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::DirBuilderExt;

    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let bad = folder.path().join(OsStr::from_bytes(b"bad\xff"));
    std::fs::DirBuilder::new().mode(0o700).create(&bad).unwrap();
    let there = |args: &[&str]| Ended::of(ipc(args).env("IPC_SHM_DIR", &bad));
    there(&["create", "jobs"]).expect(0);
    let stat = there(&["stat", "jobs", "--json"]).expect(0).json();
    assert!(
        stat["file"]
            .as_str()
            .unwrap()
            .ends_with("/default/jobs.queue"),
        "{stat}"
    );
    for look in [
        &["stat", "jobs"][..],
        &["ls"],
        &["doctor", "--json"],
        &["stat", "no", "--json"],
    ] {
        let ended = there(look);
        assert!(!ended.err.contains("panicked"), "{look:?}: {ended:?}");
    }
}
