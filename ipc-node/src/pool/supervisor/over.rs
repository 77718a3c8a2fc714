//! The end of the supervisor's thread, in any way: a callback of the program may panic in it.

use std::sync::Arc;

use super::super::state::Shared;

/// Dropped with the thread. The pool is then over, and all threads that wait for that continue.
pub(in super::super) struct Over(Arc<Shared>);

impl Over {
    pub(in super::super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let shared = &self.0;
        let has_panicked = shared.state().ended.is_none();
        if has_panicked {
            // The workers were killed when the thread's stack was unwound.
            let reason = "its thread panicked, perhaps in `on_worker_exit`";
            shared.state().ended = Some(reason.to_owned());
            // This also ends threads that wait for a job, or to submit one.
            let _ = shared.queues.jobs.transport().close();
            let _ = shared.queues.answers.transport().close();
            let _ = shared.queues.remove(&shared.config);
            shared.answer_all(reason);
        }
        shared.set_over();
    }
}
