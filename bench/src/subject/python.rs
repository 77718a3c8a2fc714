//! Python's `multiprocessing.Queue`. Rust cannot open its ends. So one part runs a script that
//! starts both sides, does the same work, and prints the same results.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Guard, Home, Place, server};
use crate::part::{Outcome, Part};
use crate::player::Player;
use crate::stage::Stage;
use crate::storm::part;
use crate::work::{SMALL, Work};

#[derive(Debug)]
pub struct Python;

const PROGRAM: &str = "python3";
const SCRIPT: &str = include_str!("python.py");

impl Player for Python {
    fn name(&self) -> String {
        "python multiprocessing.Queue".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; a killed idle receiver stops the others; its senders buffer without a limit"
    }

    fn home(&self) -> Home {
        Home::Threads
    }

    fn does(&self, work: Work) -> bool {
        matches!(work, Work::OneWay { bytes: SMALL, .. })
    }

    fn does_crowds(&self) -> bool {
        false
    }

    fn missing(&self) -> Option<String> {
        server::missing(PROGRAM)
    }

    fn create(&self, _: &Place) -> Result<Guard> {
        Ok(Box::new(()))
    }

    fn can_be_opened_again(&self) -> bool {
        false
    }

    fn weather(&self, _: &part::Orders) -> Result<()> {
        bail!("it can't be opened again")
    }

    fn play(&self, part: &Part, _: &Path, stage: &Stage) -> Result<Outcome> {
        stage.meet(1);
        crate::play::between_probes(part, stage, || {
            if part.index == 0 {
                run(part)
            } else {
                Ok(Outcome::default())
            }
        })
    }
}

fn run(part: &Part) -> Result<Outcome> {
    let Work::OneWay {
        senders, receivers, ..
    } = part.work
    else {
        return Ok(Outcome::default());
    };
    let numbers = [
        senders,
        receivers,
        part.work.capacity(),
        usize::try_from(part.times.measured.as_millis())?,
    ];
    let output = Command::new(PROGRAM)
        .args(["-c", SCRIPT])
        .args(numbers.map(|number| number.to_string()))
        .output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "python failed: {complaint}");
    serde_json::from_slice(&output.stdout).context("python's outcome")
}
