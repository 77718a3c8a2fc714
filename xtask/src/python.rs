//! `cargo xtask python`: builds the Python package, installs it under `target/`, and runs its
//! tests.
//!
//! The package is not a member of the workspace, and this crate does not depend on PyO3. `maturin`
//! does all of it; `pip` installs `maturin` into a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use xtask::cargo;

/// The tools that build, check and test the package.
const TOOLS: [&str; 8] = [
    "maturin>=1.9,<2",
    "pytest>=8",
    "mypy>=1.11",
    "ruff>=0.6",
    "numpy",
    "celery>=5.3",
    "kombu>=5.3",
    "joblib>=1.3",
];

#[derive(Debug, Args)]
pub struct Options {
    /// Build wheels for x86-64 and AArch64 instead (installs zig and needs both Rust targets)
    #[arg(long)]
    wheels: bool,
    /// Build and check, but run no tests
    #[arg(long)]
    no_tests: bool,
    /// Options and tests for pytest
    #[arg(last = true)]
    pytest: Vec<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let venv = Venv::make()?;
    if options.wheels {
        return wheels(&venv);
    }
    let package = package();
    let lints: [&[&str]; 2] = [&["format", "--check", "."], &["check", "."]];
    for lint in lints {
        cargo::run(venv.command("ruff").args(lint))?;
    }
    // A Rust program at the other end of the queues. It has the package's features, so that the
    // crates are built once.
    let mut peer = cargo::cargo(&["build", "--release", "--quiet", "--package", "rust-peer"]);
    cargo::run(peer.current_dir(&package))?;
    let mut develop = venv.command("maturin");
    cargo::run(develop.args(["develop", "--release", "--quiet"]))?;
    cargo::run(venv.python().args(["-m", "mypy"]))?;
    let mut stubs = venv.python();
    stubs.args(["-m", "mypy.stubtest", "ipc_queue._ipc"]);
    stubs.args(["--allowlist", "tests/stubtest-allowed.txt"]);
    cargo::run(stubs.arg("--ignore-unused-allowlist"))?;
    if !options.no_tests {
        venv.download_sources();
        // With the reasons of skipped tests.
        cargo::run(
            venv.python()
                .args(["-m", "pytest", "-rs"])
                .args(&options.pytest),
        )?;
    }
    eprintln!("the package in {} is as it should be", package.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds wheels that run on any system with glibc 2.17 or later.
fn wheels(venv: &Venv) -> Result<ExitCode> {
    let mut zig = venv.python();
    cargo::run(zig.args(["-m", "pip", "install", "--quiet", "ziglang"]))?;
    let folder = cargo::root().join("target/python/wheels");
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        cargo::run(Command::new("rustup").args(["target", "add", target]))?;
        let mut build = venv.command("maturin");
        build.args([
            "build",
            "--release",
            "--zig",
            "--compatibility",
            "manylinux2014",
        ]);
        cargo::run(build.args(["--target", target, "--out"]).arg(&folder))?;
    }
    eprintln!("the wheels are in {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn package() -> PathBuf {
    cargo::root().join("ipc-python")
}

/// A virtual environment with the tools.
struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// The environment of the last run, if it has the same interpreter and the same tools.
    fn make() -> Result<Self> {
        let python = std::env::var("IPC_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let version = "import sys; assert sys.version_info >= (3, 11), sys.version; \
                       print(sys.version, sys.base_prefix)";
        let (is_new_enough, version) =
            cargo::output(Command::new(&python).args(["-c", version]))
                .with_context(|| format!("{python} is needed (or another, in IPC_PYTHON)"))?;
        ensure!(
            is_new_enough,
            "{python} is older than 3.11: name another one in IPC_PYTHON"
        );
        let folder = cargo::root().join("target/python/venv");
        let venv = Self { folder };
        let wanted = format!("{version}{TOOLS:?}");
        let stamp = venv.folder.join("made-of");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(venv);
        }
        let mut make = Command::new(&python);
        cargo::run(make.args(["-m", "venv", "--clear"]).arg(&venv.folder))
            .context("Debian has this in python3-venv")?;
        let mut install = venv.python();
        install.args(["-m", "pip", "install", "--quiet"]);
        cargo::run(install.args(TOOLS))?;
        std::fs::write(&stamp, wanted)?;
        Ok(venv)
    }

    /// Downloads the sources of packages whose tests are not in their wheels. Without them, those
    /// tests are skipped.
    fn download_sources(&self) {
        let folder = cargo::root().join("target/python/sources");
        if folder.exists() {
            return;
        }
        let mut download = self.python();
        download.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            "kombu",
        ]);
        let program = "import sys, tarfile, glob\n\
                       for name in glob.glob(sys.argv[1] + '/*.tar.gz'):\n    \
                           tarfile.open(name).extractall(sys.argv[1])";
        let downloaded = cargo::run(download.args(["kombu", "--dest"]).arg(&folder))
            .and_then(|()| cargo::run(self.python().args(["-c", program]).arg(&folder)));
        if let Err(error) = downloaded {
            eprintln!("kombu's tests are skipped: {error:#}");
        }
    }

    fn python(&self) -> Command {
        self.command("python")
    }

    /// A program of the environment, run in the package's folder.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin().join(name));
        command.current_dir(package());
        command.env("VIRTUAL_ENV", &self.folder);
        // As in an activated environment: maturin looks for zig there.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin().display()));
        // Cargo runs this program with its own choice of compiler.
        command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
        command.env_remove("PYTHONHOME").env_remove("PYTHONPATH");
        command
    }

    fn bin(&self) -> PathBuf {
        Path::new(&self.folder).join("bin")
    }
}
