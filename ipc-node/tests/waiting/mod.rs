//! Ways of waiting for a pool.

use std::thread;
use std::time::{Duration, Instant};

use ipc_node::pool::{JobError, Ticket};
use serde::de::DeserializeOwned;

/// Long enough for anything that ends at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait<T: DeserializeOwned>(ticket: Ticket<T>) -> Result<T, JobError> {
    let Ok(answer) = ticket.wait_timeout(PATIENCE) else {
        panic!("no answer in {PATIENCE:?}");
    };
    answer
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
