//! A connection that is a notifier: it wakes the client when there may be something for its
//! waiters.

use super::connection::{Connection, Event};
use crate::readiness::WakeFd;
use crate::unix::frame::Carried;
use crate::unix::wire::{Answer, Ask, Side};
use crate::unix::wire_error::WireError;

/// Serves the connection until it ends. If it ends with an unanswered wake, its waiter passes
/// that on.
pub(super) fn serve(connection: &mut Connection<'_>, id: u32, side: Side) -> Result<(), WireError> {
    let queue = &connection.shared.queue;
    let notifier = match side {
        Side::Items => queue.receiver().notifier(),
        Side::Room => queue.sender().notifier(),
    };
    let wake_fd = WakeFd::new().map_err(WireError::io)?;
    let waker = wake_fd.waker();
    let mut waiter = notifier.clone().waiter();
    connection.answer(id, &Answer::Done, &Carried::None)?;
    loop {
        match connection.next_event(&wake_fd, None)? {
            Event::Woken => connection.answer(0, &Answer::Wake, &Carried::None)?,
            Event::TimeUp => {}
            Event::Request(request) => match request.what {
                Ask::Arm => {
                    let _ = wake_fd.clear();
                    waiter.register(&waker).map_err(WireError::io)?;
                    connection.answer(request.id, &Answer::Done, &Carried::None)?;
                }
                Ask::WakeOne => notifier.wake_one(),
                _ => return Err(WireError::Unasked("this connection is a notifier")),
            },
        }
    }
}
