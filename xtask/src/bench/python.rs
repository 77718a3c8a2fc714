//! `cargo xtask bench --only python`: the Python package beside the standard library.
//!
//! The package's own script measures, since both loops are to be in Python.

use std::ffi::OsStr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::cargo;

use crate::python::{Venv, package};

/// The page whose table is written.
const PAGE: &str = "docs/performance.md";

/// Whether these arguments ask for the package. What else has Python in its name is found by more of
/// its name.
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
            // The folder is the package's own.
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
