//! The next process: opens the queue, which recovers it, takes everything out, and checks that
//! everything works and is free.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipc_proto::Priority;
use ipc_queue::snapshot::{Place, restore_to};
use ipc_queue::transport::{OpenMode, Transport, Wait};
use ipc_queue::{
    ByteQueue, DeadLetter, DeadReason, Headers, QueueError, QueueOptions, SendFailure, SendOptions,
    ShmQueue, TryRecvError,
};

use super::actor::{self, CAPACITY, CHUNKS, LARGEST, PARTICIPANTS};
use super::outcome::{KEYED_CHUNKED, KEYED_INLINE, Message, Outcome, REASONS, headers, keyed};

/// Finds the content of a folder of segments whose processes are all dead. Afterwards the folder is
/// empty.
///
/// An error says what does not work, or is not free.
pub fn examine(segments: &Path) -> Result<Outcome> {
    complete_restore(segments)?;
    let namespace = actor::namespace_in(segments)?;
    match actor::open(&namespace, OpenMode::Open) {
        Ok(queue) => witness(queue, segments),
        Err(QueueError::NotFound { .. }) => {
            let queue =
                actor::open(&namespace, OpenMode::Create).context("creating a new queue")?;
            let found = witness(queue, segments)?;
            ensure!(found == Outcome::of([]), "a new queue holds {found}");
            Ok(Outcome::absent())
        }
        Err(error) => Err(error).context("opening what is left"),
    }
}

/// Like `examine`, for a process that was attached when the others died, or that opened a recovered
/// queue.
pub fn witness(mut queue: ShmQueue, segments: &Path) -> Result<Outcome> {
    if actor::saved_beside(segments).is_some() {
        // No process may be attached.
        drop(queue);
        complete_restore(segments)?;
        queue = actor::open(&actor::namespace_in(segments)?, OpenMode::Open)?;
    }
    let bytes = ByteQueue::over(Arc::new(queue.clone()) as Arc<dyn Transport>);
    let (closed, paused) = (queue.is_closed()?, queue.is_paused()?);
    if paused {
        queue.resume()?;
    }
    let messages = drain(&bytes)?;
    if closed {
        // The queue is closed: nothing can be sent any more, not even by this process.
        check_free(&queue)?;
    } else {
        for number in [KEYED_INLINE, KEYED_CHUNKED] {
            let came = messages.iter().any(|message| message.number() == number);
            check_key(&bytes, number, came)?;
        }
        check_free(&queue)?;
        let levels = if queue.settings().priorities {
            &Priority::ALL[..]
        } else {
            &[Priority::Normal]
        };
        for priority in levels {
            check_room(&bytes, *priority)?;
        }
        check_reasons(&bytes)?;
    }
    let namespace = actor::namespace_in(segments)?;
    check_slots(&namespace)?;
    drop((bytes, queue));
    let removed = ShmQueue::remove(&namespace, &actor::queue_name())?;
    ensure!(removed, "the queue was gone before it was removed");
    ensure!(!segments.exists(), "folders are left");
    let found = Outcome::of(messages);
    let found = if closed { found.closed() } else { found };
    Ok(if paused { found.paused() } else { found })
}

/// Repeats a restore that the dead processes had begun.
fn complete_restore(segments: &Path) -> Result<()> {
    let Some(saved) = actor::saved_beside(segments) else {
        return Ok(());
    };
    let again = segments.with_extension("again");
    fs::copy(&saved, &again)?;
    let place = Place::new(&actor::namespace_in(segments)?, &actor::queue_name());
    restore_to(
        &place,
        &again,
        &QueueOptions::new(),
        Wait::at_most(PATIENCE),
    )?;
    Ok(())
}

/// The longest time that a message may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

fn drain(queue: &ByteQueue) -> Result<Vec<Message>> {
    let receiver = queue.receiver();
    let mut messages = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match receiver.try_recv() {
            Ok(delivery) => {
                let number = Message::number_of(delivery.payload()).map_err(|e| anyhow!(e))?;
                check_headers(number, &delivery.headers())?;
                messages.push(Message::comes(number, delivery.attempt()));
                delivery.ack().context("acking")?;
            }
            Err(error) if error.is_closed() => break,
            Err(TryRecvError::Empty) => {
                let stats = queue.transport().stats()?;
                if stats.in_use() == stats.dead {
                    break;
                }
                ensure!(Instant::now() < deadline, "stuck: {stats:?}");
                // A message is delayed.
                thread::sleep(Duration::from_micros(100));
            }
            Err(error) => return Err(error).context("receiving"),
        }
    }
    for letter in queue.transport().dead_letters()? {
        messages.push(read_letter(&letter)?);
        let gone = queue.transport().discard(letter.id)?;
        ensure!(gone, "{letter:?} can't be dropped");
    }
    Ok(messages)
}

/// Checks that a key is remembered if and only if its message came; otherwise the key can be used.
fn check_key(queue: &ByteQueue, number: u64, came: bool) -> Result<()> {
    let sender = queue.sender();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lent = sender.loan_with(0, &keyed(number).wait(Wait::No));
        let said = lent.map(drop);
        let failure = said.as_ref().err().and_then(|error| error.failure());
        match (&said, failure) {
            (_, Some(SendFailure::Duplicate { .. })) if came => return Ok(()),
            (Ok(()), _) if !came => return Ok(()),
            // This process may have taken the message before its watcher recovered the dead one's
            // key.
            (Err(error), _) if error.is_timeout() && Instant::now() < deadline => {
                thread::sleep(Duration::from_micros(100));
            }
            _ => bail!("message {number} came: {came}; its key says {said:?}"),
        }
    }
}

/// Reads a dead letter, and checks that every delivery is accounted for.
fn read_letter(letter: &DeadLetter) -> Result<Message> {
    let number = Message::number_of(&letter.payload).map_err(|e| anyhow!(e))?;
    let buried = u8::from(letter.reason == DeadReason::Buried);
    let ends = letter.nacks + letter.expiries + letter.crashes + buried;
    let accounted = ends == letter.attempts;
    ensure!(accounted, "not every attempt is accounted for: {letter:?}");
    check_headers(number, &letter.headers)?;
    let said = REASONS.iter().position(|reason| *reason == letter.error);
    let said = said.with_context(|| format!("no receiver gave this reason: {letter:?}"))?;
    let message = Message::dead(number, letter.attempts, letter.reason);
    Ok(message.saying(u8::try_from(said)?))
}

/// Checks that a message has the headers that it was sent with, and no others.
fn check_headers(number: u64, found: &Headers) -> Result<()> {
    let expected = headers(number);
    ensure!(
        *found == expected,
        "message {number} has the headers {found:?}, not {expected:?}"
    );
    Ok(())
}

/// The slots of the dead are freed last.
fn check_free(queue: &ShmQueue) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while queue.stats()?.participants > 1 && Instant::now() < deadline {
        thread::sleep(Duration::from_micros(100));
    }
    let stats = queue.stats()?;
    ensure!(stats.in_use() == 0, "cells are left in use: {stats:?}");
    ensure!(stats.chunks_in_use == 0, "chunks are in use: {stats:?}");
    ensure!(stats.participants == 1, "slots are in use: {stats:?}");
    Ok(())
}

/// Sends, with this priority, as many of the largest messages as there are chunks, then as many
/// small ones as there are places.
fn check_room(queue: &ByteQueue, priority: Priority) -> Result<()> {
    let (sender, options) = (queue.sender(), SendOptions::new().priority(priority));
    let loans: Vec<_> = (0..CHUNKS)
        .map(|_| sender.loan_with(LARGEST as usize, &options.clone().wait(Wait::No)))
        .collect::<Result<_, _>>()
        .context("taking all chunks")?;
    drop(loans);
    let numbers = 1..=u64::from(CAPACITY);
    for number in numbers.clone() {
        let sent = sender.send_with(&Message::payload(number), &options.clone().wait(Wait::No));
        sent.context("filling all places")?;
    }
    match sender.send_with(&Message::payload(0), &options.clone().wait(Wait::No)) {
        Err(error) if error.is_timeout() => {}
        other => bail!("a full queue says {other:?}"),
    }
    let expected: Vec<_> = numbers.map(|number| Message::comes(number, 1)).collect();
    let found = drain(queue)?;
    ensure!(found == expected, "{found:?} came of what was sent now");
    Ok(())
}

/// Checks that there is room for the reason of every message.
fn check_reasons(queue: &ByteQueue) -> Result<()> {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let numbers = 1..=u64::from(CAPACITY);
    for number in numbers.clone() {
        sender.try_send(&Message::payload(number))?;
        receiver.recv_within(Wait::No)?.bury_with(REASONS[2])?;
    }
    let letter = |number| Message::dead(number, 1, DeadReason::Buried).saying(2);
    let expected = Outcome::of(numbers.map(letter));
    let found = Outcome::of(drain(queue)?);
    ensure!(found == expected, "reasons are not kept: {found}");
    Ok(())
}

/// Checks that every slot can be taken.
fn check_slots(namespace: &ipc_shm::Namespace) -> Result<()> {
    let others: Vec<_> = (1..PARTICIPANTS)
        .map(|_| actor::open(namespace, OpenMode::Open))
        .collect::<Result<_, _>>()
        .context("taking all slots")?;
    drop(others);
    Ok(())
}
