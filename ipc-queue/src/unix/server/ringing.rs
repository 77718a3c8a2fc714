//! A connection that is a bell: it wakes the client when there may be something for its waiters.

use super::connection::{Connection, Event};
use crate::readiness::Ringer;
use crate::unix::frame::{Carried, WireError};
use crate::unix::wire::{Answer, Ask, Side};

/// Serves the connection until it ends. If it ends with an unanswered wake, its listener passes
/// that on.
pub(super) fn serve(connection: &mut Connection<'_>, id: u32, side: Side) -> Result<(), WireError> {
    let queue = &connection.shared.queue;
    let bell = match side {
        Side::Items => queue.receiver().bell(),
        Side::Room => queue.sender().bell(),
    };
    let ringer = Ringer::new().map_err(WireError::io)?;
    let waker = ringer.waker();
    let mut listener = bell.clone().listener();
    connection.answer(id, &Answer::Done, &Carried::None)?;
    loop {
        match connection.next_event(&ringer, None)? {
            Event::Rung => connection.answer(0, &Answer::Ring, &Carried::None)?,
            Event::TimeUp => {}
            Event::Request(request) => match request.what {
                Ask::Arm => {
                    let _ = ringer.clear();
                    listener.listen(&waker).map_err(WireError::io)?;
                    connection.answer(request.id, &Answer::Done, &Carried::None)?;
                }
                Ask::PassOn => bell.pass_on(),
                _ => return Err(WireError::Unasked("this connection is a bell")),
            },
        }
    }
}
