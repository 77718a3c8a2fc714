//! Files that a packager installs with the command: shell completions and manual pages.

use std::fs;
use std::process::Command;

use ipc_queue::QueueOptions;

use crate::place::{Ended, Place, program, run, say_skipped};

/// Runs a script in a shell with the command on its path. Returns `None` if the shell is not
/// installed.
fn in_shell(shell: &str, script: &str) -> Option<Ended> {
    if Command::new(shell).arg("--version").output().is_err() {
        say_skipped("completion", &format!("{shell} is not installed"));
        return None;
    }
    let command = std::path::Path::new(env!("CARGO_BIN_EXE_ipc"));
    let folder = command.parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    let mut program = program(shell);
    program.args(["-c", script]);
    Some(Ended::of(program.env("PATH", format!("{folder}:{path}"))))
}

/// Returns the completions that bash offers for the last word of a command line.
fn offered_by_bash(words: &[&str]) -> Option<Vec<String>> {
    let line = words.join(" ");
    let script = format!(
        "source <(ipc completions bash); COMP_WORDS=({words}); COMP_CWORD={last}; COMP_TYPE=9; \
         _clap_complete_ipc ipc \"${{COMP_WORDS[COMP_CWORD]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words = words
            .iter()
            .map(|word| format!("'{word}' "))
            .collect::<String>(),
        last = words.len() - 1,
    );
    let ended = in_shell("bash", &script)?;
    assert_eq!(ended.code, 0, "{line}: {ended:?}");
    Some(ended.out.lines().map(str::to_owned).collect())
}

fn two_queues(test: &str) -> Place {
    let place = Place::new(test);
    for name in ["jobs", "letters"] {
        place.make(name, &QueueOptions::new());
    }
    place
}

#[test]
fn bash_completes_names_of_queues_namespaces_commands_and_options() {
    let place = two_queues("complete-bash");
    let (jobs, letters) = (place.name("jobs"), place.name("letters"));
    let typed = format!("{}/j", place.0);
    let Some(offered) = offered_by_bash(&["ipc", "stat", &typed]) else {
        return;
    };
    assert_eq!(offered, [&jobs[..]]);
    let all = format!("{}/", place.0);
    let commands = [
        &["stat"][..],
        &["recv", "--count", "3"],
        &["dlq", "requeue"],
        &["bridge", "other"],
        &["check"],
        &["rm", "other"],
    ];
    for command in commands {
        let words = [&["ipc"], command, &[&all]].concat();
        let offered = offered_by_bash(&words).unwrap();
        assert_eq!(offered, [&jobs[..], &letters], "{words:?}");
    }
    let offered = offered_by_bash(&["ipc", "top", &place.0]).unwrap();
    assert_eq!(offered, [&place.0[..]]);
    assert_eq!(offered_by_bash(&["ipc", "sta"]).unwrap(), ["stat"]);
    let offered = offered_by_bash(&["ipc", "send", "jobs", "--exp"]).unwrap();
    assert_eq!(offered, ["--expires-in"]);
    let offered = offered_by_bash(&["ipc", "send", "jobs", "--priority", "ur"]).unwrap();
    assert_eq!(offered, ["urgent"]);
    // A removed queue is not offered, and causes no message.
    run(&["rm", &jobs]).expect(0);
    assert_eq!(
        offered_by_bash(&["ipc", "stat", &all]).unwrap(),
        [&letters[..]]
    );
}

#[test]
fn fish_completes_names_of_queues() {
    let place = two_queues("complete-fish");
    let script = format!(
        "ipc completions fish | source; complete --do-complete 'ipc stat {}/'",
        place.0
    );
    let Some(ended) = in_shell("fish", &script) else {
        return;
    };
    let offered = ended
        .out
        .lines()
        .map(|line| line.split('\t').next().unwrap());
    let offered: Vec<_> = offered.collect();
    assert_eq!(
        offered,
        [place.name("jobs"), place.name("letters")],
        "{ended:?}"
    );
    assert!(ended.out.contains("0 ready, 0 held, 0 dead"), "{ended:?}");
}

#[test]
fn zsh_completes_names_of_queues() {
    let place = two_queues("complete-zsh");
    // zsh completes only in its line editor, so this replaces its functions by ones that print.
    let script = format!(
        "compdef() {{ :; }}; _describe() {{ print -rl -- \"${{(@P)${{@[-1]}}}}\"; }}; \
         compadd() {{ print -rl -- \"$@\"; }}; \
         source <(ipc completions zsh); words=(ipc stat {}/); CURRENT=3; \
         _clap_dynamic_completer_ipc",
        place.0
    );
    let Some(ended) = in_shell("zsh", &script) else {
        return;
    };
    for queue in [place.name("jobs"), place.name("letters")] {
        assert!(ended.out.contains(&queue), "{ended:?}");
    }
}

#[test]
fn each_command_has_a_manual_page_that_man_can_render() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("pages");
    run(&["man", "--out", pages.to_str().unwrap()]).expect(0);
    let names = fs::read_dir(&pages).unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in [
        "ipc.1",
        "ipc-stat.1",
        "ipc-dlq-requeue.1",
        "ipc-completions.1",
    ] {
        assert!(
            names.iter().any(|page| page == name),
            "no {name} in {names:?}"
        );
    }
    let help = run(&["--help"]).expect(0).out;
    for name in &names {
        let page = fs::read_to_string(pages.join(name)).unwrap();
        let title = name.trim_end_matches(".1").to_uppercase();
        assert!(page.contains(&format!(".TH {title} 1 ")), "{name}: {page}");
        let command = name.trim_end_matches(".1").split('-').nth(1);
        let is_listed = command.is_none_or(|command| help.contains(&format!("  {command}")));
        assert!(is_listed, "{name} is of a hidden command");
    }
    let readers: [&[&str]; 2] = [
        &["mandoc", "-T", "lint", "-W", "error"],
        &["man", "--warnings", "-l"],
    ];
    for reader in readers {
        if Command::new(reader[0]).arg("-V").output().is_err() {
            say_skipped("manual pages", &format!("{} is not installed", reader[0]));
            continue;
        }
        for name in &names {
            let mut command = program(reader[0]);
            command
                .args(&reader[1..])
                .arg(pages.join(name))
                .env("MANPAGER", "cat");
            let ended = Ended::of(&mut command);
            let complaints = format!(
                "{}{}",
                ended.err,
                if reader[0] == "man" { "" } else { &ended.out }
            );
            assert!(
                ended.code == 0 && complaints.is_empty(),
                "{name}: {complaints}"
            );
        }
    }
    // The columns of the examples are kept.
    let page = fs::read_to_string(pages.join("ipc.1")).unwrap();
    assert!(page.contains(".nf\n  ipc ls    "), "{page}");
}
