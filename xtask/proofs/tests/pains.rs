//! Each test that docs/pains.md names must exist, and so must the absences that it promises.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

/// Returns what a line of the document refers to.
fn references(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains("::") || word.starts_with("scenario "))
}

fn scenarios() -> BTreeSet<String> {
    let list = Command::new(env!("CARGO_BIN_EXE_proofs"))
        .args(["scenarios", "--list"])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let names = list.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_test_named_as_evidence_exists() {
    let text = fs::read_to_string(root().join("docs/pains.md")).unwrap();
    let (scenarios, mut rows) = (scenarios(), 0);
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| must hold");
    for line in text.lines().filter(is_row) {
        rows += 1;
        assert!(references(line).count() > 0, "nothing shows this: {line}");
        for reference in references(line) {
            if let Some(scenario) = reference.strip_prefix("scenario ") {
                assert!(scenarios.contains(scenario), "no scenario {scenario}");
                continue;
            }
            let (file, test) = reference.split_once("::").unwrap();
            let source = fs::read_to_string(root().join(file));
            let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(
                source.contains(&format!("fn {test}(")),
                "{file} has no test {test}"
            );
        }
    }
    assert!(rows > 30, "only {rows} rows were found");
}

/// Collects the sources below a folder, without unit tests.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            found.push((path, code.to_owned()));
        }
    }
}

#[test]
fn no_library_forks_reaps_foreign_children_or_arms_a_parent_death_signal() {
    let mut found = Vec::new();
    for library in ["ipc-proto", "ipc-shm", "ipc-queue", "ipc-node"] {
        sources(&root().join(library).join("src"), &mut found);
    }
    assert!(found.len() > 50, "only {} files were found", found.len());
    for (path, code) in found {
        // Waits for members of its workers' process groups only, by the groups' numbers.
        let waits_by_group = path.ends_with("ipc-node/src/pool/supervisor/adopted.rs");
        for call in ["Id::All", "from_raw(-1)", "None, "] {
            assert!(
                !waits_by_group || !code.contains(call),
                "{} has {call}",
                path.display()
            );
        }
        for call in [
            "unistd::fork",
            "{ fork() }",
            "libc::fork(",
            "waitpid(",
            "waitid(",
            "pre_exec(",
            "set_pdeathsig",
        ] {
            let is_allowed = waits_by_group && call.starts_with("wait");
            assert!(
                is_allowed || !code.contains(call),
                "{} has {call}",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_foreign_is_compiled_into_a_queue() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "ipc-node",
            "-e",
            "normal,build",
            "--prefix",
            "none",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("ipc-shm"), "{names:?}");
    for foreign in [
        "bindgen",
        "clang-sys",
        "cc",
        "cmake",
        "pkg-config",
        "jni",
        "tokio",
    ] {
        assert!(!names.contains(foreign), "{foreign} is in the tree");
    }
}
