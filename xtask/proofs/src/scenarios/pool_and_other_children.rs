//! A pool waits only for its own workers: the program itself learns how its other children ended.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Outcome;
use super::pool_worker::{does_its_work, file, pool, said_in, wait};
use super::stage::Stage;

const ROUNDS: usize = 5;

pub fn play(_: &Stage) -> Result<Outcome> {
    let pool = pool(None).start()?;
    for _ in 0..ROUNDS {
        let mut child = Command::new("sh")
            .args(["-c", "read go; exit 7"])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut ended = Command::new("false").spawn()?;
        let (_folder, file) = file()?;
        let ticket = pool.submit::<_, u8>("hang once", &file)?;
        kill(Pid::from_raw(said_in(&file)?), Signal::SIGKILL)?;
        let attempt = wait(ticket)?;
        ensure!(attempt == Ok(2), "it was done at attempt {attempt:?}");
        writeln!(child.stdin.take().context("it is piped")?, "go")?;
        let codes = (child.wait()?.code(), ended.wait()?.code());
        ensure!(codes == (Some(7), Some(1)), "they ended with {codes:?}");
    }
    does_its_work(&pool)?;
    pool.shutdown()?;
    Outcome::kept(json!({ "children": 2 * ROUNDS, "kills": ROUNDS }))
}
