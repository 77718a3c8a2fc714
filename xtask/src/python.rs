//! `cargo xtask python`: builds the Python package, installs it under `target/`, and runs its
//! tests.
//!
//! The package is not a member of the workspace, and this crate does not depend on PyO3. `maturin`
//! does all of it; `pip` installs `maturin` into a separate virtual environment.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use xtask::cargo;

/// The tools that build, check and test the package. The upper bounds are the tested versions, so a
/// new release of a tool cannot break CI.
const TOOLS: [&str; 8] = [
    "maturin>=1.9,<1.17",
    "pytest>=8,<10",
    "mypy>=1.11,<2.5",
    "ruff>=0.6,<0.18",
    "numpy<2.5",
    "celery>=5.3,<5.8",
    KOMBU,
    "joblib>=1.3,<1.7",
];

/// Its own tests are also run; they are only in its source distribution.
const KOMBU: &str = "kombu>=5.3,<5.8";

#[derive(Debug, Args)]
pub struct Options {
    /// Build wheels for x86-64 and AArch64 instead (installs zig and needs both Rust targets)
    #[arg(long)]
    wheels: bool,
    /// Build and check, but run no tests
    #[arg(long)]
    no_tests: bool,
    /// Write the table of CPython's own tests in the package's README
    #[arg(long)]
    docs: bool,
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
    venv.install_package()?;
    cargo::run(venv.python().args(["-m", "mypy"]))?;
    let mut stubs = venv.python();
    stubs.args(["-m", "mypy.stubtest", "ipc_queue._ipc"]);
    stubs.args(["--allowlist", "tests/stubtest-allowed.txt"]);
    cargo::run(stubs.arg("--ignore-unused-allowlist"))?;
    if !options.no_tests {
        venv.download_sources();
        let mut tests = venv.python();
        if options.docs {
            tests.env("IPC_WRITE_DOCS", "1");
        }
        // With the reasons of skipped tests.
        cargo::run(tests.args(["-m", "pytest", "-rs"]).args(&options.pytest))?;
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

/// Returns the requested interpreter, or the first suitable one, with its description.
///
/// An interpreter with its own tests is preferred: they are run on the package's classes.
fn interpreter() -> Result<(String, String)> {
    if let Ok(wanted) = std::env::var("IPC_PYTHON") {
        let version = what_it_is(&wanted).with_context(|| {
            format!("{wanted}, named in IPC_PYTHON, is not a Python 3.11 or later with `venv`")
        })?;
        return Ok((wanted, version));
    }
    let minors = (11..=15).rev();
    let named = ["python3", "/usr/bin/python3"].map(str::to_owned);
    let numbered = minors.map(|minor| format!("python3.{minor}"));
    let found: Vec<(String, String)> = named
        .into_iter()
        .chain(numbered)
        .filter_map(|python| what_it_is(&python).ok().map(|version| (python, version)))
        .collect();
    let has_tests = |(python, _): &&(String, String)| has_own_tests(python);
    let best = found.iter().find(has_tests).or(found.first());
    best.cloned().context(
        "no Python 3.11 or later with `venv` was found (Debian: python3-venv): name one in IPC_PYTHON",
    )
}

/// The version and place of an interpreter that is new enough, and can make environments.
fn what_it_is(python: &str) -> Result<String> {
    let program = "import ensurepip, sys, venv\n\
                   assert sys.version_info >= (3, 11)\n\
                   print(sys.version, sys.base_prefix)";
    let (is_fit, version) = cargo::output(Command::new(python).args(["-c", program]))?;
    ensure!(is_fit, "{python} lacks something");
    Ok(version)
}

fn has_own_tests(python: &str) -> bool {
    let program = "import test.test_concurrent_futures, test._test_multiprocessing";
    cargo::output(Command::new(python).args(["-c", program])).is_ok_and(|(has, _)| has)
}

pub fn package() -> PathBuf {
    cargo::root().join("ipc-python")
}

/// A virtual environment with the tools.
pub struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// The environment of the last run, if it has the same interpreter and the same tools.
    pub fn make() -> Result<Self> {
        let (python, version) = interpreter()?;
        let folder = cargo::root().join("target/python/venv");
        let venv = Self { folder };
        let wanted = format!("{version}{TOOLS:?}");
        let stamp = venv.folder.join("made-of");
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(venv);
        }
        let mut make = Command::new(&python);
        cargo::run(make.args(["-m", "venv", "--clear"]).arg(&venv.folder))?;
        let mut install = venv.python();
        install.args(["-m", "pip", "install", "--quiet"]);
        install.arg("--disable-pip-version-check");
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

    /// Builds the package and installs it here, so that changes in Python need no new build.
    pub fn install_package(&self) -> Result<()> {
        let mut develop = self.command("maturin");
        cargo::run(develop.args(["develop", "--release", "--quiet"]))
    }

    pub fn python(&self) -> Command {
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
