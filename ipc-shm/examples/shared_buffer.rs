//! Memory that processes share, under a lock that survives its holder.
//!
//! Run it with `cargo run -p ipc-shm --example shared_buffer`.

use std::process::Command;

use ipc_shm::{Namespace, SharedBuffer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let namespace = Namespace::new("examples")?;
    if std::env::args().nth(1).as_deref() == Some("child") {
        let buffer = SharedBuffer::connect(&namespace, "counter")?;
        let mut guard = buffer.lock()?; // excludes all processes, and survives a dead holder
        let mut count = [0; 8];
        guard.read_at(0, &mut count)?;
        guard.write_at(0, &(u64::from_le_bytes(count) + 1).to_le_bytes())?;
        return Ok(());
    }
    let buffer = SharedBuffer::create(&namespace, "counter", 8)?; // zeroes
    let children = (0..4).map(|_| Command::new("/proc/self/exe").arg("child").spawn());
    for child in children.collect::<Result<Vec<_>, _>>()? {
        child.wait_with_output()?;
    }
    let count = buffer.read_to_vec(0, 8)?;
    println!("{} children counted", count[0]);
    SharedBuffer::remove(&namespace, "counter")?;
    Ok(())
}
