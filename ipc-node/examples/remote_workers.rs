//! Workers of another process help a pool, wherever its address leads.
//!
//! `cargo run -p ipc-node --example remote_workers`

use std::process::Command;

use ipc_node::pool::{Handlers, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("who", |(): (), context| {
        std::thread::sleep(std::time::Duration::from_millis(10)); // so that no worker does all
        Ok::<_, String>(format!("{} in {}", context.worker(), std::process::id()))
    });
    handlers.work_if_worker();
    if let Some(address) = std::env::args().nth(1) {
        // Another process, on another host if the address is a network's. It knows nothing but the
        // address.
        let worker = Command::new("/proc/self/exe");
        let builder = Pool::builder().at(&address).worker_name("remote");
        return Ok(builder.workers(2).command(worker).join()?.wait()?);
    }
    let pool = Pool::builder().workers(2).start()?;
    let mut remote_workers = Command::new("/proc/self/exe").arg(pool.address()).spawn()?;
    while pool
        .status()?
        .workers
        .iter()
        .filter(|who| who.is_remote)
        .count()
        < 2
    {
        std::thread::yield_now();
    }
    for who in pool.map::<_, String>("who", [(); 20]) {
        println!("{}", who?);
    }
    pool.shutdown()?; // the remote workers end with it
    remote_workers.wait()?;
    Ok(())
}
