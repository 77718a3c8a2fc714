//! The common part of the reference rings: cells in a shared file, single attempts, a way of
//! waiting.

use std::marker::PhantomData;

use anyhow::Result;
use ipc_shm::fetch;

use super::waiting::Waiting;
use super::{Guard, Patience, Place, Receiver, Sender, Subject};
use crate::memory::{LINE, Shared};
use crate::work::Work;

/// A bounded queue of payloads in shared memory. Payloads are written and read in their cells.
pub trait Ring {
    const NAME: &str;
    const NOTE: &str;
    /// Set if there may be several senders and receivers, which may come and go.
    const SHARED: bool;

    /// Prepares zero-filled cells.
    fn prepare(cells: &Cells);

    fn over(cells: Cells) -> Self;

    /// Sends if there is room.
    fn try_push(&self, len: usize, fill: &mut impl FnMut(&mut [u8])) -> bool;

    /// Receives if there is a message.
    fn try_pop(&self, read: &mut impl FnMut(&[u8])) -> bool;

    fn does(work: Work) -> bool;
}

/// Two index words, each on a separate line, then cells with a word and a payload.
#[derive(Debug)]
pub struct Cells {
    pub shared: Shared,
    /// The number of cells: a power of two.
    pub count: u64,
    stride: usize,
    payload_bytes: usize,
}

/// The offsets of the senders' and the receivers' index.
pub const TAIL: usize = 0;
pub const HEAD: usize = LINE;
const FIRST: usize = 2 * LINE;
const WORD: usize = 8;
const HALF_LINE: usize = LINE / 2;
/// The distance, in cells, at which lines are fetched ahead: that of this project's queue.
pub const AHEAD: u64 = 4;

impl Cells {
    fn create(place: &Place) -> Result<Self> {
        let (count, stride) = Self::measures(place);
        let bytes = FIRST + count * stride;
        Ok(Self::over(Shared::create(&place.file(), bytes)?, place))
    }

    fn open(place: &Place) -> Result<Self> {
        Ok(Self::over(Shared::open(&place.file())?, place))
    }

    fn over(shared: Shared, place: &Place) -> Self {
        let (count, stride) = Self::measures(place);
        Self {
            shared,
            count: count as u64,
            stride,
            payload_bytes: place.bytes,
        }
    }

    fn measures(place: &Place) -> (usize, usize) {
        let stride = (WORD + place.bytes).next_multiple_of(64);
        (place.capacity.next_power_of_two(), stride)
    }

    /// Returns the word of the cell for `position`.
    #[inline]
    pub fn word(&self, position: u64) -> &std::sync::atomic::AtomicU64 {
        self.shared.word(self.offset(position))
    }

    /// # Safety As [`Shared::payload_mut`].
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the ring grants exclusive access")]
    pub unsafe fn payload_mut(&self, position: u64, len: usize) -> &mut [u8] {
        let len = len.min(self.payload_bytes);
        // SAFETY: the caller's promise, for bytes of this cell only.
        unsafe { self.shared.payload_mut(self.offset(position) + WORD, len) }
    }

    /// # Safety
    /// The conditions of [`Shared::payload`].
    #[inline]
    pub unsafe fn payload(&self, position: u64) -> &[u8] {
        // SAFETY: the caller's promise, for bytes of this cell only.
        unsafe {
            self.shared
                .payload(self.offset(position) + WORD, self.payload_bytes)
        }
    }

    /// Asks for the first two lines of a cell: all of a small message.
    #[inline]
    pub fn fetch_to_write(&self, position: u64) {
        let offset = self.offset(position);
        fetch::to_write(self.shared.word(offset));
        fetch::to_write(self.shared.word(offset + HALF_LINE));
    }

    /// The same for a receiver, which writes the word only.
    #[inline]
    pub fn fetch_to_read(&self, position: u64) {
        let offset = self.offset(position);
        fetch::to_write(self.shared.word(offset));
        fetch::to_read(self.shared.word(offset + HALF_LINE));
    }

    #[inline]
    fn offset(&self, position: u64) -> usize {
        let index = position & (self.count - 1);
        FIRST + usize::try_from(index).expect("few cells") * self.stride
    }
}

/// A ring with a way of waiting.
#[derive(Debug)]
pub struct Waited<R, W>(PhantomData<fn() -> (R, W)>);

/// Either end.
#[derive(Debug)]
pub struct End<R, W> {
    ring: R,
    waiting: W,
}

impl<R, W> Waited<R, W> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<R: Ring, W: Waiting> Subject for Waited<R, W> {
    type Sender = End<R, W>;
    type Receiver = End<R, W>;

    fn name(&self) -> String {
        [R::NAME, W::NAME].join(" ")
    }

    fn note(&self) -> &'static str {
        R::NOTE
    }

    fn does(&self, work: Work) -> bool {
        R::does(work)
    }

    fn can_be_opened_again(&self) -> bool {
        R::SHARED
    }

    fn create(&self, place: &Place) -> Result<Guard> {
        R::prepare(&Cells::create(place)?);
        Ok(Box::new(()))
    }

    fn receiver(&self, place: &Place, _: Patience) -> Result<End<R, W>> {
        self.sender(place)
    }

    fn sender(&self, place: &Place) -> Result<End<R, W>> {
        Ok(End {
            ring: R::over(Cells::open(place)?),
            waiting: W::default(),
        })
    }
}

impl<R: Ring, W: Waiting> Sender for End<R, W> {
    #[inline]
    fn send(&mut self, count: usize, len: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            self.waiting.until(|| self.ring.try_push(len, fill));
        }
        Ok(())
    }
}

impl<R: Ring, W: Waiting> Receiver for End<R, W> {
    #[inline]
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        self.waiting.until(|| self.ring.try_pop(read));
        Ok(())
    }
}
