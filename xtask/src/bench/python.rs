//! `cargo xtask bench --only python`: the Python package beside the standard library.
//!
//! The package's own script measures, because both loops must be in Python.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::cargo;

use crate::python::{Venv, package};

/// The page whose table is written.
const PAGE: &str = "docs/performance.md";

/// Returns `true` if these arguments ask for the package. Other works with Python in their name are
/// found by a longer part of it.
pub fn is_wanted(args: &[impl AsRef<OsStr>]) -> bool {
    let mut pairs = args.windows(2);
    pairs.any(|pair| pair[0].as_ref() == "--only" && pair[1].as_ref() == "python")
}

pub fn run(args: &[impl AsRef<OsStr>]) -> Result<ExitCode> {
    let mut script = vec!["bench/compare.py"];
    let mut rest = args.iter().map(|arg| arg.as_ref().to_string_lossy());
    while let Some(arg) = rest.next() {
        match &*arg {
            "--only" => drop(rest.next()),
            "--quick" => script.push("--quick"),
            // The table is always written into the package's own folder.
            "--docs" => {
                drop(rest.next());
                script.extend(["--docs", PAGE]);
            }
            other => bail!("{other} is not an option of the Python package's bench"),
        }
    }
    let venv = Venv::make()?;
    venv.install_package()?;
    cargo::run(venv.python().args(&script))?;
    if script.contains(&"--docs") {
        eprintln!("the table is in {}", package().join(PAGE).display());
    }
    Ok(ExitCode::SUCCESS)
}
