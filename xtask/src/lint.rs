//! `cargo xtask lint`: checks formatting, lints, docs, and that the layers are as in
//! ARCHITECTURE.md.
//!
//! The layering checks assert absences. They check what a crate must not depend on, where `unsafe`
//! must not be, and that no code asks by a process's number whether it lives.

mod advice;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use xtask::cargo::{self, CRATES, cargo};

/// The crates that each crate must not depend on, directly or not.
const ABSENT: [(&str, &[&str]); 5] = [
    (
        "ipc-proto",
        &[
            "nix",
            "libc",
            "memmap2",
            "flume",
            "tokio",
            "ipc-shm",
            "ipc-queue",
            "ipc-node",
        ],
    ),
    ("ipc-shm", &["flume", "tokio", "ipc-queue", "ipc-node"]),
    ("ipc-queue", &["tokio", "async-nats", "ipc-node", "clap"]),
    ("ipc-nats", &["ipc-node", "ipc-cli", "ipc-demo", "clap"]),
    (
        "ipc-node",
        &["tokio", "async-nats", "clap", "ipc-cli", "ipc-demo"],
    ),
];

/// The only places with `unsafe`, below each crate's `src`.
const UNSAFE: [(&str, &[&str]); 2] = [
    (
        "ipc-shm",
        &[
            "mapping.rs",
            "fault.rs",
            "fetch.rs",
            "fork.rs",
            "wait.rs",
            "liveness.rs",
            "user.rs",
            "watch.rs",
            "buffer/guard.rs",
        ],
    ),
    ("ipc-queue", &["held.rs", "shm/payload.rs"]),
];

pub fn run() -> Result<ExitCode> {
    cargo::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    // Not members of the workspace, and not compiled here. The bench depends on the peers, the fuzz
    // targets on a nightly compiler, and the Python package on PyO3.
    for manifest in [
        "bench/Cargo.toml",
        "fuzz/Cargo.toml",
        "ipc-python/Cargo.toml",
    ] {
        cargo::run(&mut cargo(&[
            "fmt",
            "--all",
            "--manifest-path",
            manifest,
            "--check",
        ]))?;
    }
    let everything = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ];
    cargo::run(&mut cargo(&everything))?;
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--all-features",
        "--document-private-items",
    ]);
    cargo::run(doc.env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private-intra-doc-links",
    ))?;
    check_absences()?;
    check_unsafe()?;
    check_liveness()?;
    check_quickstart()?;
    advice::check()?;
    eprintln!("formatting, lints, docs and layers are in order");
    Ok(ExitCode::SUCCESS)
}

fn check_absences() -> Result<()> {
    for (package, unwanted) in ABSENT {
        // One tree, then a search for names: `cargo tree -i` fails in the same way for "absent" and
        // for "mistyped".
        let tree = [
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--all-features",
        ];
        let (found, tree) = cargo::output(&mut cargo(&tree))?;
        ensure!(found, "cargo tree knows no {package}");
        let names: Vec<&str> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        ensure!(
            names.contains(&package),
            "{package} is not in its own tree: the check is broken"
        );
        if let Some(name) = unwanted.iter().find(|name| names.contains(name)) {
            bail!("{package} depends on {name}, which is above it or must not be known to it");
        }
    }
    Ok(())
}

fn check_unsafe() -> Result<()> {
    for package in CRATES {
        let allowed = UNSAFE
            .iter()
            .find(|(name, _)| *name == package)
            .map_or(&[][..], |(_, files)| *files);
        let source = cargo::root().join(package).join("src");
        for file in rust_files(&source)? {
            let place = file
                .strip_prefix(&source)
                .context("below src")?
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            // Unit tests may fork.
            let code = without_tests(&file, &text);
            let uses = code.lines().any(uses_unsafe);
            let is_allowed = allowed.contains(&&place[..]);
            ensure!(
                is_allowed || !uses,
                "{package}/src/{place} has `{KEYWORD}`: only {allowed:?} may"
            );
        }
    }
    Ok(())
}

/// Returns the part of a source file that is not unit tests. They follow the code in a module
/// `tests`, or fill a file of that name.
fn without_tests<'t>(file: &Path, text: &'t str) -> &'t str {
    if file.ends_with("tests.rs") {
        return "";
    }
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
}

/// A process's number means nothing in another PID namespace, and little after the process ended.
/// Locks and pidfds show whether a process lives (`ipc-shm/src/liveness.rs`).
fn check_liveness() -> Result<()> {
    for package in CRATES
        .into_iter()
        .filter(|package| !package.starts_with("xtask"))
    {
        let source = cargo::root().join(package).join("src");
        for file in rust_files(&source)? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            let code = without_tests(&file, &text);
            if let Some(call) = liveness_by_number(code) {
                bail!(
                    "{}: {call}: a process's number does not tell whether it lives; ask a lock \
                     (`Inspector::is_in_use`, `Participants::is_departed`) or a pidfd",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

/// The first call in `code` that asks by number whether a process lives: the null signal, or a
/// check of `/proc/<pid>`.
fn liveness_by_number(code: &str) -> Option<String> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect();
    let null_signal = ["kill", "killpg", "pidfd_send_signal"]
        .into_iter()
        .find_map(|name| {
            calls(&code, name).into_iter().find(|call| {
                let last = arguments(call).pop().unwrap_or_default();
                // `kill(self)` and the like have no process number.
                arguments(call).len() > 1 && ["None", "0", "Option::None"].contains(&&last[..])
            })
        });
    let asked = ["test_kill_process", "test_kill_process_group"]
        .into_iter()
        .find_map(|name| calls(&code, name).into_iter().next());
    let in_proc = || {
        let asks = |line: &&str| {
            line.contains("\"/proc/{") && (line.contains("exists") || line.contains("is_dir"))
        };
        code.lines().find(asks).map(|line| line.trim().to_owned())
    };
    null_signal.or(asked).or_else(in_proc)
}

/// Every call of a function or method called `name`, with its arguments.
fn calls(code: &str, name: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(&format!("{name}("))
        .filter(|(at, _)| !code[..*at].ends_with(is_word))
        .filter_map(|(at, _)| {
            let open = at + name.len();
            let mut depth = 0_usize;
            let end = code[open..].find(|c| {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                depth == 0
            })?;
            Some(code[at..=open + end].to_owned())
        })
        .collect()
}

/// The arguments of a call, as written.
fn arguments(call: &str) -> Vec<String> {
    let inner = call.split_once('(').map_or("", |(_, rest)| rest);
    let inner = inner.strip_suffix(')').unwrap_or(inner);
    let (mut depth, mut parts) = (0_usize, vec![String::new()]);
    for c in inner.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("never empty").push(c);
    }
    let trimmed = parts.iter().map(|part| part.trim().to_owned());
    trimmed.filter(|part| !part.is_empty()).collect()
}

/// In two pieces, so that the check does not find this file.
const KEYWORD: &str = concat!("un", "safe");

fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == KEYWORD)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Checks that the program in the README is the one in `examples/`, which a test compiles and runs.
fn check_quickstart() -> Result<()> {
    let read = |path: &str| {
        std::fs::read_to_string(cargo::root().join(path)).with_context(|| format!("reading {path}"))
    };
    let (readme, example) = (
        read("README.md")?,
        read("ipc-queue/examples/quickstart.rs")?,
    );
    let program = example
        .split_once("use ")
        .map(|(_, rest)| format!("use {rest}"))
        .unwrap_or_default();
    ensure!(
        !program.is_empty() && readme.contains(program.trim_end()),
        "README.md's example is not ipc-queue/examples/quickstart.rs"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_by_a_number_whether_a_process_lives_is_rejected() {
        for code in [
            "let gone = kill(Pid::from_raw(pid), None).is_err();",
            "nix::sys::signal::kill(\n    Pid::from_raw(pid),\n    None,\n)",
            "unsafe { libc::kill(pid, 0) };",
            "killpg(group, None)",
            "rustix::process::test_kill_process(pid)",
            "pidfd_send_signal(fd, 0)",
            "Path::new(&format!(\"/proc/{pid}\")).exists()",
            "fs::exists(format!(\"/proc/{pid}\")).unwrap()",
        ] {
            assert!(liveness_by_number(code).is_some(), "{code}");
        }
    }

    #[test]
    fn code_after_the_declaration_of_a_test_file_is_checked() {
        let text = "#[cfg(test)]\nmod tests;\n\nfn code() {}\n";
        assert_eq!(without_tests(Path::new("src/lock.rs"), text), text);
        assert_eq!(without_tests(Path::new("src/lock/tests.rs"), text), "");
        let inline = "fn code() {}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(
            without_tests(Path::new("src/wait.rs"), inline),
            "fn code() {}\n"
        );
    }

    #[test]
    fn real_signals_and_similar_code_are_not_rejected() {
        for code in [
            "kill(Pid::from_raw(pid), Signal::SIGKILL)",
            "killpg(group, Signal::SIGTERM)",
            "child.kill()?; body.kill(None)",
            "// kill(pid, None) would not tell",
            "skill(pid, None)",
            "fs::read_to_string(format!(\"/proc/{pid}/statm\"))",
        ] {
            assert_eq!(liveness_by_number(code), None, "{code}");
        }
    }
}
