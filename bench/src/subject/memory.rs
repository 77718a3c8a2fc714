//! Reference: one write and one read of the same amount of private memory, by one core. No queue.

use std::cell::RefCell;

use anyhow::Result;

use super::{Patience, Place, Receiver, Sender, Subject};
use crate::work::Work;

#[derive(Debug)]
pub struct Memory;

/// Either end. Both share the thread's buffer.
#[derive(Debug)]
pub struct End;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Subject for Memory {
    type Sender = End;
    type Receiver = End;

    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn note(&self) -> &'static str {
        "no queue: one write plus one read of a buffer"
    }

    fn does(&self, work: Work) -> bool {
        matches!(work, Work::Alone { .. })
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<End> {
        self.sender(place)
    }

    fn sender(&self, place: &Place) -> Result<End> {
        BUFFER.with_borrow_mut(|buffer| buffer.resize(place.bytes, 0));
        Ok(End)
    }
}

impl Sender for End {
    fn send(&mut self, _: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        BUFFER.with_borrow_mut(|buffer| fill(buffer));
        Ok(())
    }
}

impl Receiver for End {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        BUFFER.with_borrow(|buffer| read(buffer));
        Ok(())
    }
}
