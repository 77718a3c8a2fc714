//! Dead letters say which signal ended their last worker: only the pool, which started it, learns that.

use ipc_proto::codec;

use super::state::Shared;
use super::wire::Job;

/// Notes it in the letter that the job with this ticket is.
pub(super) fn note(shared: &Shared, ticket: u64, signal: i32) {
    let Ok(signal) = u8::try_from(signal) else {
        return;
    };
    let jobs = shared.queues.jobs.transport();
    // For people only: where the queue does not answer, the letter lacks its signal.
    for letter in jobs.dead_letters().unwrap_or_default() {
        let job = codec::decode_prefix::<Job>(&letter.payload);
        if job.is_ok_and(|(job, _)| job.ticket == ticket) {
            let _ = jobs.note_signal(letter.id, signal);
        }
    }
}
