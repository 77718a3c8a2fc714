//! A queue of another type, other settings or another kind is refused by name.
//!
//! A process that uses the queue meanwhile is not disturbed.

use anyhow::{Result, ensure};
use ipc_queue::transport::OpenMode;
use ipc_queue::{Queue, QueueError};
use ipc_shm::{HeaderError, Namespace, OpenError, SharedBuffer};
use serde_json::json;

use super::Outcome;
use super::stage::{self, Stage};

pub fn play(stage: &Stage) -> Result<Outcome> {
    let address = stage::address(stage::JOBS);
    let numbers: Queue<u64> = stage::options(OpenMode::Create)
        .capacity(4)
        .open(&address)?;
    numbers.sender().try_send(7)?;

    let texts = stage::options(OpenMode::Open).open::<String>(&address);
    let told = matches!(&texts, Err(QueueError::PayloadDiffers { found, wanted, .. })
        if found.contains("u64") && wanted.contains("String"));
    ensure!(told, "as texts: {texts:?}");
    let bytes = stage::options(OpenMode::OpenOrCreate).open_bytes(&address);
    let told = matches!(&bytes, Err(QueueError::PayloadDiffers { .. }));
    ensure!(told, "as bytes: {bytes:?}");
    let larger = stage::options(OpenMode::Open)
        .capacity(5)
        .open::<u64>(&address);
    let told = matches!(&larger, Err(QueueError::SettingsDiffer { field: "capacity", found, wanted, .. })
        if (&found[..], &wanted[..]) == ("4", "5"));
    ensure!(told, "with another capacity: {larger:?}");
    another_kind(stage)?;

    let receiver = numbers.receiver();
    let delivery = receiver.try_recv()?;
    ensure!(*delivery.data() == 7, "the queue was disturbed");
    delivery.ack()?;
    drop((receiver, numbers));
    ipc_queue::remove(&address)?;
    Outcome::kept(json!({ "refusals": 4 }))
}

/// A shared buffer under a queue's name.
fn another_kind(stage: &Stage) -> Result<()> {
    let namespace = Namespace::in_folder(stage.ipc_folder(), "stage")?;
    drop(SharedBuffer::create(&namespace, "buffer", 4096)?);
    let file = stage.file_of("buffer");
    std::fs::rename(file.with_extension("buffer"), &file)?;
    let opened = stage::options(OpenMode::OpenOrCreate).open_bytes(stage::address("buffer"));
    let told = matches!(&opened, Err(QueueError::Open(OpenError::Header {
        source: HeaderError::Kind { found, wanted: "queue" },
        ..
    })) if found == "buffer");
    ensure!(told, "a buffer as a queue: {opened:?}");
    ensure!(ipc_queue::remove(stage::address("buffer"))?, "not removed");
    Ok(())
}
