//! One process of the kill storm.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::memory::{LINE, Shared};
use crate::part::THERE;
use crate::payload;
use crate::subject::{Patience, Place, Receiver, Sender, Subject};
use crate::work::SMALL;

/// The orders for a process of the storm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    pub subject: String,
    pub folder: PathBuf,
    pub sends: bool,
}

const WORKING: Duration = Duration::from_nanos(500);
const CAPACITY: usize = 1024;
/// The sender stops at this number.
pub const MOST_MESSAGES: u64 = 1 << 26;
/// The block that all processes share.
pub const FILE: &str = "storm";
pub const ACCEPTED: usize = 0;
pub const PROCESSED: usize = LINE;
pub const STOP: usize = 2 * LINE;
pub const MARKS: usize = 4 * LINE;
/// The word of a message that contains its number.
const NUMBER: usize = 1;

/// Returns the offset of a message's mark.
pub fn mark(number: u64) -> usize {
    MARKS + usize::try_from(number).expect("a small number")
}

pub fn place(folder: &Path) -> Place {
    Place {
        folder: folder.to_owned(),
        queue: THERE,
        bytes: SMALL,
        capacity: CAPACITY,
    }
}

/// Plays one process's part.
pub fn play<S: Subject>(subject: &S, orders: &Orders) -> Result<()> {
    let block = Shared::open_sparse(&orders.folder.join(FILE))?;
    let place = place(&orders.folder);
    if orders.sends {
        send(&mut subject.sender(&place)?, &block)
    } else {
        receive(&mut subject.receiver(&place, Patience::Stream)?, &block)
    }
}

fn send<S: Sender>(sender: &mut S, block: &Shared) -> Result<()> {
    for number in 0..MOST_MESSAGES {
        if block.word(STOP).load(Relaxed) != 0 {
            break;
        }
        sender.send(1, SMALL, &mut |memory| {
            payload::fill(memory, number);
            payload::set_word(memory, NUMBER, number);
        })?;
        block.word(ACCEPTED).store(number + 1, SeqCst);
    }
    Ok(())
}

fn receive<R: Receiver>(receiver: &mut R, block: &Shared) -> Result<()> {
    loop {
        receiver.receive(&mut |memory| {
            let number = payload::word(memory, NUMBER);
            let began = Instant::now();
            while began.elapsed() < WORKING {}
            if number < MOST_MESSAGES {
                block.byte(mark(number)).store(1, Relaxed);
            }
            block.word(PROCESSED).fetch_add(1, SeqCst);
        })?;
    }
}
