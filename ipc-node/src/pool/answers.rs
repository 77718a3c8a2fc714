//! The thread that reads the workers' reports.
//!
//! It runs until the answer queue is removed. If the pool did not remove the queue, the pool ends
//! with that reason. A queue that is out of reach for a while is tried again for as long as the
//! pool exists.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use ipc_proto::codec;
use ipc_queue::Batch;

use super::outage::{Outage, is_temporary};
use super::state::Shared;
use super::wire::Report;

const PAUSE: Duration = Duration::from_millis(50);
/// The most reports that are received together.
const AT_ONCE: usize = 32;

pub(super) fn read(shared: &Shared) {
    let receiver = shared.queues.answers.receiver();
    let outage = Outage::at(&shared.config);
    // Reports that were handled but not acked, so they may be delivered again.
    let mut doubtful = HashSet::new();
    let mut batch = Batch::new();
    loop {
        match receiver.recv_batch_into(&mut batch, AT_ONCE, outage.wait()) {
            Ok(()) => {
                for delivery in &batch {
                    if !doubtful.remove(&delivery.id())
                        && let Ok(Report { start, what }) = codec::decode(delivery.payload())
                    {
                        shared.hear(start, what);
                    }
                    shared.heard_one();
                }
                if let Err(error) = batch.ack() {
                    let failures = error.others.iter().chain([&error.first]);
                    doubtful.extend(failures.map(|failure| failure.message));
                }
            }
            Err(error) if error.is_timeout() && shared.state().ended.is_some() => return,
            Err(error) if error.is_timeout() || error.is_of_one_message() => {}
            Err(error) if is_temporary(&error) && shared.state().ended.is_none() => {
                thread::sleep(PAUSE);
            }
            Err(error) => {
                let mut state = shared.state();
                if state.ended.is_none() {
                    state.trouble =
                        Some(format!("its workers' answers can't be received: {error}"));
                    drop(state);
                    shared.wake_supervisor();
                }
                return;
            }
        }
    }
}
