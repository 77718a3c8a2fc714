//! The thread that reads the workers' reports.
//!
//! It runs until the answer queue is removed. If the pool did not remove the queue, the pool ends
//! with that reason. A queue that is out of reach for a while is tried again for as long as the
//! pool exists.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use ipc_proto::codec;

use super::patience::{Patience, may_pass};
use super::state::Shared;
use super::wire::Report;

const PAUSE: Duration = Duration::from_millis(50);

pub(super) fn read(shared: &Shared) {
    let receiver = shared.queues.answers.receiver();
    let patience = Patience::at(&shared.place);
    // Reports that were handled but not acked, so they may be delivered again.
    let mut doubtful = HashSet::new();
    loop {
        match receiver.recv_within(patience.wait()) {
            Ok(delivery) => {
                let id = delivery.id();
                if !doubtful.remove(&id)
                    && let Ok(Report { start, what }) = codec::decode(delivery.payload())
                {
                    shared.hear(start, what);
                }
                shared.heard_one();
                if delivery.ack().is_err() {
                    doubtful.insert(id);
                }
            }
            Err(error) if error.is_timeout() && shared.state().ended.is_some() => return,
            Err(error) if error.is_timeout() || error.is_of_one_message() => {}
            Err(error) if may_pass(&error) && shared.state().ended.is_none() => {
                thread::sleep(PAUSE);
            }
            Err(error) => {
                let mut state = shared.state();
                if state.ended.is_none() {
                    state.trouble =
                        Some(format!("its workers' answers can't be received: {error}"));
                    drop(state);
                    shared.poke();
                }
                return;
            }
        }
    }
}
