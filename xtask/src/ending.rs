//! How a command that checks something ends: it says what it found, to people or to programs, and whether that is well.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

/// Prints `text`, or with `--json` the same as `data`, one JSON value. A failure unless all is well.
pub fn end(
    json: bool,
    data: &impl Serialize,
    text: impl Display,
    is_well: bool,
) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(data)?);
    } else {
        println!("{text}");
    }
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
