//! Revoking one lease, and dropping one message, by its id.

use anyhow::Result;
use ipc_proto::MessageId;
use ipc_queue::{ByteQueue, DeadReason};

use crate::sweep::actor::Play;
use crate::sweep::operation::State;
use crate::sweep::outcome::{FIRST_CHUNKED, Message, Outcome};
use crate::sweep::scenery::{MOMENT, Scenery, kept, receive, send, shorten};

pub const REVOKE: &[State] = &[
    State::new("fresh", |play| {
        let again = Message::comes(1, 2);
        revoke(play, Scenery::OneReady, [again, again])
    }),
    State::new("chunked", |play| {
        let again = Message::comes(FIRST_CHUNKED, 2);
        revoke(play, Scenery::ChunkReady, [again, again])
    }),
    // Only here the content shows whether the lease ended by the revocation or by the death.
    State::new("last-attempt", |play| {
        let dead = |reason| Message::dead(1, 3, reason);
        let outcomes = [dead(DeadReason::Crashed), dead(DeadReason::Expired)];
        revoke(play, Scenery::GivenBackTwice, outcomes)
    }),
    State::new("expired-already", |play| {
        let set = Scenery::OneReady.set(play)?;
        let delivery = receive(&set.peer)?;
        shorten(&delivery)?;
        let id = delivery.id();
        kept(delivery);
        let same = || Outcome::of([Message::comes(1, 2)]);
        let transport = set.queue.transport();
        play.step(same(), same(), || transport.revoke(id))
    }),
];

pub const DROP: &[State] = &[
    State::new("one", |play| drop_one(play, &[], 1)),
    State::new("chunked", |play| drop_one(play, &[], FIRST_CHUNKED)),
    State::new("full", |play| drop_one(play, &[1, 2], 3)),
    State::new("delayed", |play| {
        let set = Scenery::Empty.set(play)?;
        let id = sent(&set.queue, 1)?;
        receive(&set.queue)?.nack_after(MOMENT)?;
        let before = Outcome::of([Message::comes(1, 2)]);
        let transport = set.queue.transport();
        play.step(before, Outcome::of([]), || transport.drop_message(id))
    }),
    State::new("first-of-a-run", |play| drop_of_run(play, 0)),
    State::new("second-of-a-run", |play| drop_of_run(play, 1)),
    State::new("last-of-a-run", |play| drop_of_run(play, 2)),
];

/// The peer, which lives, holds the message.
fn revoke(play: &Play, scenery: Scenery, [before, after]: [Message; 2]) -> Result<()> {
    let set = scenery.set(play)?;
    let delivery = receive(&set.peer)?;
    let id = delivery.id();
    kept(delivery);
    let transport = set.queue.transport();
    play.step(Outcome::of([before]), Outcome::of([after]), || {
        transport.revoke(id)
    })
}

fn drop_one(play: &Play, others: &[u64], number: u64) -> Result<()> {
    let set = Scenery::Empty.set(play)?;
    send(&set.queue, others.iter().copied())?;
    let id = sent(&set.queue, number)?;
    let rest = others.iter().map(|other| Message::comes(*other, 1));
    let before = rest.clone().chain([Message::comes(number, 1)]);
    let transport = set.queue.transport();
    play.step(Outcome::of(before), Outcome::of(rest), || {
        transport.drop_message(id)
    })
}

fn drop_of_run(play: &Play, dropped: usize) -> Result<()> {
    let queue = play.attach_without_lease()?;
    let payloads = [1, 2, 3].map(Message::payload);
    let payloads: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    queue.sender().send_batch(&payloads)?;
    let id = play.waiting()?[dropped];
    let all = (1..=3).map(|number| Message::comes(number, 1));
    let mut rest: Vec<_> = all.clone().collect();
    rest.remove(dropped);
    let transport = queue.transport();
    play.step(Outcome::of(all), Outcome::of(rest), || {
        transport.drop_message(id)
    })
}

fn sent(queue: &ByteQueue, number: u64) -> Result<MessageId> {
    Ok(queue.sender().try_send(&Message::payload(number))?)
}
