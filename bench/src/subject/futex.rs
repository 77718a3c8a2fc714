//! Reference: one mailbox and a raw futex. The minimum cost of waking a sleeper.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::Result;

use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::memory::{LINE, Shared};
use crate::work::{Manner, Work};

#[derive(Debug)]
pub struct Futex;

/// Either end: the mailbox, and the number of messages that passed through it.
#[derive(Debug)]
pub struct Mailbox {
    shared: Shared,
    passed: u32,
    bytes: usize,
}

/// The offset of the number of messages put in, and that of the message.
const COUNT: usize = 0;
const MESSAGE: usize = LINE;

impl Subject for Futex {
    type Sender = Mailbox;
    type Receiver = Mailbox;

    fn name(&self) -> String {
        "futex".to_owned()
    }

    fn note(&self) -> &'static str {
        "no queue: one mailbox, for round trips only"
    }

    fn does(&self, work: Work) -> bool {
        let manners = [Manner::Blocking, Manner::Asleep];
        manners
            .map(|manner| Work::RoundTrip { manner })
            .contains(&work)
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        Shared::create(&place.file(), MESSAGE + place.bytes)?;
        Ok(Box::new(()))
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<Mailbox> {
        self.sender(place)
    }

    fn sender(&self, place: &Place) -> Result<Mailbox> {
        Ok(Mailbox {
            shared: Shared::open(&place.file())?,
            passed: 0,
            bytes: place.bytes,
        })
    }
}

impl Sender for Mailbox {
    fn send(&mut self, _: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        // SAFETY: in a round trip the partner waits, and reads only after the store below.
        fill(unsafe { self.shared.payload_mut(MESSAGE, len) });
        self.passed = self.passed.wrapping_add(1);
        let count = self.shared.half(COUNT);
        count.store(self.passed, Release);
        wake(count);
        Ok(())
    }
}

impl Receiver for Mailbox {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let count = self.shared.half(COUNT);
        while count.load(Acquire) == self.passed {
            wait(count, self.passed);
        }
        self.passed = self.passed.wrapping_add(1);
        // SAFETY: in a round trip the partner writes again only after this side's answer.
        read(unsafe { self.shared.payload(MESSAGE, self.bytes) });
        Ok(())
    }
}

fn wait(word: &AtomicU32, while_it_is: u32) {
    // SAFETY: the word is alive and aligned. The kernel reads it, and no other argument is a
    // pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            while_it_is,
            std::ptr::null::<libc::timespec>(),
        )
    };
    // The word had changed, or a signal arrived: the caller checks again.
    let _ = result;
}

fn wake(word: &AtomicU32) {
    // SAFETY: as in `wait`. The kernel only looks up the address.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    // The number of threads woken.
    let _ = result;
}
