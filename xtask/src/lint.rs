//! `cargo xtask lint`: formatting, lints, docs, and that the layers are what ARCHITECTURE.md says.
//!
//! The layering checks assert absences: what a crate must not depend on, and where `unsafe` must not be.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, cargo};

/// Who must not depend on what, directly or not.
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
    ("ipc-queue", &["shm/payload.rs"]),
];

const CRATES: [&str; 8] = [
    "ipc-proto",
    "ipc-shm",
    "ipc-queue",
    "ipc-nats",
    "ipc-node",
    "ipc-cli",
    "ipc-demo",
    "xtask",
];

pub fn run() -> Result<ExitCode> {
    cargo::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    // No members of the workspace, and not compiled here: the bench depends on the peers, the fuzz targets on a
    // nightly compiler.
    for manifest in ["bench/Cargo.toml", "fuzz/Cargo.toml"] {
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
    check_quickstart()?;
    eprintln!("formatting, lints, docs and layers are in order");
    Ok(ExitCode::SUCCESS)
}

fn check_absences() -> Result<()> {
    for (package, unwanted) in ABSENT {
        // One tree, then look for names: `cargo tree -i` fails alike for "absent" and for "mistyped".
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
            bail!("{package} depends on {name}, which lies above it or is none of its business");
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
            // Unit tests follow the code; they may fork.
            let code = text
                .split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap_or_default();
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

/// In two pieces, or this file would find itself.
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

/// The program in the README is the one in `examples/`, which is compiled and run by a test.
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
