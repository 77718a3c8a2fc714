//! Batches of received messages.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::{slice, vec};

use crate::delivery::{ByteDelivery, ack_all};
use crate::error::BatchAckError;
use crate::received::Delivery;

/// The deliveries of one or more [`recv_batch`](crate::Receiver::recv_batch) calls.
///
/// Used like the `Vec` that it dereferences to: each delivery can be settled by itself.
/// [`ack`](Self::ack) acknowledges all deliveries that are left, which costs less. Deliveries that
/// are dropped unsettled return to the queue.
///
/// ```
/// use ipc_queue::{Batch, Queue, transport::Wait};
///
/// let queue = Queue::<u32>::open("local:batched")?;
/// queue.sender().send_batch(0..100)?;
/// let receiver = queue.receiver();
/// let (mut batch, mut sum) = (Batch::new(), 0);
/// while receiver.recv_batch_into(&mut batch, 32, Wait::No).is_ok() {
///     sum += batch.iter().map(|number| number.data()).sum::<u32>();
///     batch.ack()?; // empty again, and its memory is used for the next
/// }
/// assert_eq!(sum, 4950);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropped without `ack` its messages are delivered again"]
pub struct Batch<'a, D> {
    deliveries: Vec<D>,
    /// Memory for deliveries that were received and are not decoded yet. Empty between calls.
    encoded: Vec<ByteDelivery<'a>>,
}

impl<'a, D> Batch<'a, D> {
    /// Returns an empty batch, for [`recv_batch_into`](crate::Receiver::recv_batch_into).
    pub const fn new() -> Self {
        Self {
            deliveries: Vec::new(),
            encoded: Vec::new(),
        }
    }

    /// Returns an empty batch with memory for `count` deliveries.
    pub fn with_capacity(count: usize) -> Self {
        Self {
            deliveries: Vec::with_capacity(count),
            encoded: Vec::new(),
        }
    }

    /// Returns the deliveries, and memory for undecoded ones.
    pub(crate) fn parts(&mut self) -> (&mut Vec<D>, &mut Vec<ByteDelivery<'a>>) {
        (&mut self.deliveries, &mut self.encoded)
    }
}

impl<'a> Batch<'a, ByteDelivery<'a>> {
    /// Acknowledges all deliveries. The batch is empty afterwards and keeps its memory.
    ///
    /// Not atomic: a process that dies during the call may have acknowledged only the first
    /// deliveries.
    ///
    /// # Errors
    /// [`BatchAckError`] if at least one lease was lost. All others were acknowledged.
    pub fn ack(&mut self) -> Result<(), BatchAckError> {
        ack_all(self.deliveries.drain(..))
    }
}

impl<'a, T> Batch<'a, Delivery<'a, T>> {
    /// Acknowledges all deliveries. The batch is empty afterwards and keeps its memory.
    ///
    /// Not atomic: a process that dies during the call may have acknowledged only the first
    /// deliveries.
    ///
    /// # Errors
    /// [`BatchAckError`] if at least one lease was lost. All others were acknowledged.
    pub fn ack(&mut self) -> Result<(), BatchAckError> {
        ack_all(self.deliveries.drain(..).map(Delivery::into_bytes))
    }
}

impl<D> Default for Batch<'_, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Deref for Batch<'_, D> {
    type Target = Vec<D>;

    fn deref(&self) -> &Vec<D> {
        &self.deliveries
    }
}

impl<D> DerefMut for Batch<'_, D> {
    fn deref_mut(&mut self) -> &mut Vec<D> {
        &mut self.deliveries
    }
}

impl<D> From<Batch<'_, D>> for Vec<D> {
    fn from(batch: Batch<'_, D>) -> Self {
        batch.deliveries
    }
}

impl<D> From<Batch<'_, D>> for VecDeque<D> {
    fn from(batch: Batch<'_, D>) -> Self {
        batch.deliveries.into()
    }
}

impl<D> IntoIterator for Batch<'_, D> {
    type Item = D;
    type IntoIter = vec::IntoIter<D>;

    fn into_iter(self) -> Self::IntoIter {
        self.deliveries.into_iter()
    }
}

impl<'b, D> IntoIterator for &'b Batch<'_, D> {
    type Item = &'b D;
    type IntoIter = slice::Iter<'b, D>;

    fn into_iter(self) -> Self::IntoIter {
        self.deliveries.iter()
    }
}

impl<'b, D> IntoIterator for &'b mut Batch<'_, D> {
    type Item = &'b mut D;
    type IntoIter = slice::IterMut<'b, D>;

    fn into_iter(self) -> Self::IntoIter {
        self.deliveries.iter_mut()
    }
}
