//! Closing, pausing and resuming.

use anyhow::Result;

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::Outcome;
use crate::sweep::scenery::Scenery;

pub const CLOSE: &[State] = &[
    State::new("empty", |play| close(play, Scenery::Empty)),
    State::new("full", |play| close(play, Scenery::Full)),
    State::new("held", |play| close(play, Scenery::PeerHolds)),
    State::new("delayed", |play| close(play, Scenery::Delayed)),
    State::new("letter", |play| close(play, Scenery::Letter)),
    State::new("awaited", |play| close(play, Scenery::Awaited)),
];

pub const PAUSE: &[State] = &[
    State::new("full", |play| {
        let set = Scenery::Full.set(play)?;
        let before = Outcome::of(set.content.clone());
        let (transport, after) = (set.queue.transport(), before.clone().paused());
        play.step(before, after, || transport.pause())
    }),
    State::new("resume", |play| {
        let set = Scenery::Full.set(play)?;
        let transport = set.queue.transport();
        transport.pause()?;
        let after = Outcome::of(set.content.clone());
        play.step(after.clone().paused(), after, || transport.resume())
    }),
];

fn close(play: &Play, scenery: Scenery) -> Result<()> {
    let set = scenery.set(play)?;
    let before = Outcome::of(set.content.clone());
    let (transport, after) = (set.queue.transport(), before.clone().closed());
    play.step(before, after, || transport.close())
}
