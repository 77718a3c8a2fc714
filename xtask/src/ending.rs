//! The end of a command that checks something: its report, for people or programs, and its exit
//! code.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

/// Prints `text`, or with `--json` the same data as one JSON value. Returns a failure unless all is
/// well.
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
