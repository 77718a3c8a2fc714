//! Receiving and acking at once, one message or many.

use ipc_queue::transport::Wait;
use ipc_queue::{ByteDelivery, Nack, OwnedByteDelivery, RecvError, SettleError};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use std::time::Duration;

use super::RawQueue;
use crate::arguments::{Seconds, count};
use crate::errors::{self, reason};
use crate::waiting::Limit;

/// The first byte of a pickle of protocol 2 or later. A pickle with buffers begins with another.
const PICKLE: u8 = 0x80;

/// The functions that turn bytes into a message's content.
#[derive(Clone, Copy)]
pub struct Decoding<'a, 'py> {
    /// `None`: the content is the bytes.
    pub decode: Option<&'a Bound<'py, PyAny>>,
    /// `pickle.loads`, if `decode` does nothing else with a plain pickle.
    pub loads: Option<&'a Bound<'py, PyAny>>,
}

impl Decoding<'_, '_> {
    fn content(&self, py: Python<'_>, delivery: &impl Held) -> PyResult<Py<PyAny>> {
        let payload = delivery.bytes();
        let is_pickle = payload.first() == Some(&PICKLE);
        let bytes = PyBytes::new(py, payload);
        let whole = delivery.whole();
        whole.map_err(|error| errors::of_recv(py, &error))?;
        match (self.decode, self.loads) {
            (None, _) => Ok(bytes.into_any().unbind()),
            (_, Some(loads)) if is_pickle => Ok(loads.call1((bytes,))?.unbind()),
            (Some(decode), _) => Ok(decode.call1((bytes,))?.unbind()),
        }
    }
}

/// A delivery that is borrowed from its receiver, or owned.
trait Held {
    fn bytes(&self) -> &[u8];
    /// Fails if the bytes were cut off while they were copied.
    fn whole(&self) -> Result<(), RecvError>;
    fn ack(self, py: Python<'_>) -> Result<(), SettleError>;
    fn nack(self, py: Python<'_>, reason: &str) -> Result<(), SettleError>;
    /// Returns it to the queue at once. This is not an attempt.
    fn give_back(self, py: Python<'_>) -> Result<(), SettleError>;
}

impl Held for ByteDelivery<'_> {
    fn bytes(&self) -> &[u8] {
        self.payload()
    }

    fn whole(&self) -> Result<(), RecvError> {
        self.check_whole()
    }

    fn ack(self, _py: Python<'_>) -> Result<(), SettleError> {
        ByteDelivery::ack(self)
    }

    fn nack(self, _py: Python<'_>, reason: &str) -> Result<(), SettleError> {
        self.nack_with(Nack::new().reason(reason))
    }

    fn give_back(self, _py: Python<'_>) -> Result<(), SettleError> {
        self.snooze(Duration::ZERO)
    }
}

/// Settling this may wait for a server.
impl Held for OwnedByteDelivery {
    fn bytes(&self) -> &[u8] {
        self.payload()
    }

    fn whole(&self) -> Result<(), RecvError> {
        self.check_whole()
    }

    fn ack(self, py: Python<'_>) -> Result<(), SettleError> {
        py.detach(|| OwnedByteDelivery::ack(self))
    }

    fn nack(self, py: Python<'_>, reason: &str) -> Result<(), SettleError> {
        py.detach(|| self.nack_with(Nack::new().reason(reason)))
    }

    fn give_back(self, py: Python<'_>) -> Result<(), SettleError> {
        py.detach(|| self.snooze(Duration::ZERO))
    }
}

impl RawQueue {
    /// Receives, decodes and acks up to `most` messages. Waits for the first.
    ///
    /// One that can't be decoded is nacked and ends the batch; if it is the first, this fails.
    pub fn take_batch(
        &self,
        py: Python<'_>,
        most: &Bound<'_, PyAny>,
        timeout: Option<Seconds>,
        decoding: Decoding<'_, '_>,
    ) -> PyResult<Vec<Py<PyAny>>> {
        let most = count("most", most)?;
        let limit = Limit::new(timeout)?;
        if self.origin.in_memory {
            let receiver = self.opened(py)?.receiver();
            match receiver.recv_batch(most, Wait::No) {
                Ok(batch) => return take_all(py, batch.into_iter(), decoding),
                Err(error) if limit.is_zero() => return Err(errors::of_recv_timeout(py, &error)),
                // It is empty, or the same failure comes again.
                Err(_) => {}
            }
        }
        let batch = self.receive_batch(py, most, limit)?;
        take_all(py, batch.into_iter(), decoding)
    }

    /// Takes one message. A message that can't be decoded is buried or nacked.
    pub fn settle_decoded(
        py: Python<'_>,
        delivery: ByteDelivery<'_>,
        decoding: Decoding<'_, '_>,
        bury: bool,
    ) -> PyResult<Py<PyAny>> {
        let data = decoding.content(py, &delivery);
        let settled = match &data {
            Ok(_) => delivery.ack(),
            Err(error) if bury => delivery.bury_with(&reason(py, error)),
            Err(error) => delivery.nack_with(Nack::new().reason(&reason(py, error))),
        };
        let data = data?;
        settled.map_err(|error| errors::of_settle(py, &error))?;
        Ok(data)
    }
}

/// Decodes all, then acks them: an exception such as `KeyboardInterrupt` loses nothing.
fn take_all<H: Held>(
    py: Python<'_>,
    mut deliveries: impl ExactSizeIterator<Item = H>,
    decoding: Decoding<'_, '_>,
) -> PyResult<Vec<Py<PyAny>>> {
    let mut decoded = Vec::with_capacity(deliveries.len());
    let mut failure = None;
    for delivery in deliveries.by_ref() {
        match decoding.content(py, &delivery) {
            Ok(data) => decoded.push((delivery, data)),
            Err(error) => {
                failure = Some((delivery, error));
                break;
            }
        }
    }
    // Those behind the failure. If this fails they come back by themselves, as after a nack.
    deliveries.for_each(|delivery| drop(delivery.give_back(py)));
    if let Some((delivery, error)) = failure {
        if !error.is_instance_of::<PyException>(py) {
            let all = decoded.into_iter().map(|(delivery, _)| delivery);
            all.chain([delivery])
                .for_each(|held| drop(held.give_back(py)));
            return Err(error);
        }
        let nacked = delivery.nack(py, &reason(py, &error));
        drop(nacked);
        if decoded.is_empty() {
            return Err(error);
        }
    }
    let mut contents = Vec::with_capacity(decoded.len());
    let mut lost = None;
    for (delivery, data) in decoded {
        match delivery.ack(py) {
            Ok(()) => contents.push(data),
            // It is delivered again.
            Err(error) => lost = lost.or(Some(error)),
        }
    }
    match lost {
        Some(error) if contents.is_empty() => Err(errors::of_settle(py, &error)),
        _ => Ok(contents),
    }
}
