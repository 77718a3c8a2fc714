//! The table in the README shows what the transports declare, and states the limits of emulated
//! features.

use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use ipc_nats::NatsQueue;
use ipc_queue::conformance::Table;
use ipc_queue::{Capabilities, QueueOptions, UnixServer};

/// If this variable is set, the table is written instead of checked.
const WRITE: &str = "IPC_WRITE_TABLE";

fn of(address: &str) -> Capabilities {
    let queue = QueueOptions::new().capacity(1).open_bytes(address).unwrap();
    let capabilities = queue.transport().capabilities();
    assert!(ipc_queue::remove(address).unwrap());
    capabilities
}

/// Returns the capabilities of a shared-memory queue that is used through a socket.
fn served(address: &str) -> Capabilities {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.sock");
    let queue = QueueOptions::new().capacity(1).open_bytes(address).unwrap();
    let server = UnixServer::bind(&path, Arc::clone(queue.transport())).unwrap();
    let client = format!("unix:{}", path.display());
    let client = QueueOptions::new().open_any(&client).unwrap();
    let capabilities = client.transport().capabilities();
    drop((client, server));
    assert!(ipc_queue::remove(address).unwrap());
    capabilities
}

/// Returns what each transport declares, by its scheme.
fn declared() -> Table {
    let name = format!("cli-{}-table/q", std::process::id());
    Table::new()
        .with("local", of("local:table"))
        .with("shm", of(&format!("shm:{name}")))
        .with("unix", served(&format!("shm:{name}")))
        .with("nats", NatsQueue::CAPABILITIES)
}

#[test]
fn the_readme_lists_the_features_of_each_transport() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).unwrap();
    // Compare lines, not the parsed table, in which a missing row would count as unsupported.
    let written = Table::lines_in(&readme).expect("README.md has the table");
    let declared = declared();
    if env::var_os(WRITE).is_some() {
        let updated = readme.replace(written, &declared.markdown());
        fs::write(&path, updated).unwrap();
        return;
    }
    assert!(
        written == declared.markdown(),
        "the table in README.md is not what the transports declare: cargo xtask table writes it"
    );
    for (scheme, feature) in declared.emulated() {
        let note = format!("`{scheme}:`, {feature}:");
        assert!(
            readme.contains(&note),
            "README.md does not say what is emulated: {note}"
        );
    }
}
