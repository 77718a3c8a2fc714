//! The progress of a control call: the content of its error if an answer is missing.

use std::cell::Cell;
use std::time::Instant;

use ipc_queue::{ControlFailure, Outcome, Unavailable};

use crate::request_error::RequestError;

/// The steps of one control call.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    /// The last request.
    request: Cell<&'static str>,
    /// Set if a request that changes the queue was made.
    changes: Cell<bool>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            request: Cell::new("connect"),
            changes: Cell::new(false),
        }
    }

    /// The next request changes nothing.
    pub(crate) fn read(&self, request: &'static str) {
        self.request.set(request);
    }

    /// The next request changes something, perhaps even after the call has given up.
    pub(crate) fn change(&self, request: &'static str) {
        self.request.set(request);
        self.changes.set(true);
    }

    /// The cause of an error that ends the call here.
    pub(crate) fn failure(&self, error: RequestError) -> ControlFailure {
        match (error, self.changes.get()) {
            (RequestError::Gone, _) => Unavailable::Removed.into(),
            (RequestError::Damaged(reason), false) => ControlFailure::Damaged { reason },
            (RequestError::Refused(reason), false) => ControlFailure::Refused { reason },
            (error, changes) => ControlFailure::Unreachable {
                request: self.request.get().to_owned(),
                waited: self.started.elapsed(),
                reason: error.to_string(),
                outcome: match changes {
                    true => Outcome::Unknown,
                    false => Outcome::NotDone,
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_control_call_says_whether_it_may_have_changed_anything() {
        let steps = Steps::new();
        steps.read("read the records");
        let silent = || RequestError::Server("it is silent".to_owned());
        let text = steps.failure(silent()).to_string();
        assert!(
            text.contains("read the records") && text.contains("nothing was changed"),
            "{text}"
        );
        steps.change("delete a record");
        steps.read("read the records");
        let text = steps.failure(silent()).to_string();
        assert!(text.contains("unknown"), "{text}");
        let refused = steps
            .failure(RequestError::Refused("no".to_owned()))
            .to_string();
        assert!(refused.contains("unknown"), "{refused}");
    }
}
