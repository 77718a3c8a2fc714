//! A file cut or grown while nobody had it open is refused, and can be removed.
//!
//! Never a SIGBUS, which would end our process. (Cut while somebody has it open is not promised.)

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use ipc_queue::QueueError;
use ipc_queue::transport::OpenMode;
use ipc_shm::{HeaderError, OpenError};
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, Stage};

pub fn play(stage: &Stage) -> Result<Outcome> {
    let whole = {
        drop(stage::create(&stage::settings())?);
        std::fs::metadata(stage.file_of(stage::JOBS))?.len()
    };
    ipc_queue::remove(&stage::address(stage::JOBS))?;
    let sizes = [
        0,
        1,
        7,
        8,
        100,
        4095,
        4096,
        whole / 2,
        whole - 4096,
        whole - 1,
        whole + 1,
        2 * whole,
    ];
    for size in sizes {
        refused_and_removed(stage, size).with_context(|| format!("{size} of {whole} bytes"))?;
    }
    Outcome::kept(json!({ "bytes": whole, "sizes": sizes.len() }))
}

fn refused_and_removed(stage: &Stage, size: u64) -> Result<()> {
    // By others: we ourselves may have it mapped for a moment longer.
    let mut creator = stage.stranger()?;
    let (queue, settings) = (stage::JOBS.to_owned(), stage::settings());
    creator.perform(Order::Create { queue, settings })?;
    creator.attach()?;
    creator.send(0..4, CHUNKED)?;
    creator.dismiss()?;
    let path = stage.file_of(stage::JOBS);
    File::options().write(true).open(&path)?.set_len(size)?;
    for mode in [OpenMode::Open, OpenMode::OpenOrCreate] {
        let opened = stage::options(mode).open_bytes(&stage::address(stage::JOBS));
        match opened {
            Err(QueueError::Open(OpenError::Header {
                source: HeaderError::TooShort { found, .. } | HeaderError::Size { found, .. },
                ..
            })) => ensure!(found == size, "it is said to have {found} bytes"),
            Err(error) => bail!("another error: {error:?}"),
            Ok(_) => bail!("it was opened"),
        }
    }
    ensure!(path.metadata()?.len() == size, "it was changed");
    ensure!(
        ipc_queue::remove(&stage::address(stage::JOBS))?,
        "not removed"
    );
    ensure!(!path.exists(), "it is still there");
    Ok(())
}
