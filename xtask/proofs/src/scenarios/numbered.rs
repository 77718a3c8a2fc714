//! Messages with a number, which show whether they are whole.

use crate::torture::payload;

const NUMBER_BYTES: usize = 8;

/// Fills a payload of at least eight bytes with the message of that number.
pub fn write(payload: &mut [u8], number: u64) {
    let (head, body) = payload.split_at_mut(NUMBER_BYTES);
    head.copy_from_slice(&number.to_le_bytes());
    payload::fill(body, number);
}

/// The message of that number.
pub fn message(number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    write(&mut payload, number);
    payload
}

/// The number of a message, or its fault.
pub fn read(payload: &[u8]) -> Result<u64, String> {
    let damaged = || format!("a message of {} bytes is damaged", payload.len());
    let (head, body) = payload
        .split_first_chunk::<NUMBER_BYTES>()
        .ok_or_else(damaged)?;
    let number = u64::from_le_bytes(*head);
    // The body is generated again instead of checked by a sum: a sum would also match in another
    // message's body.
    let mut wanted = vec![0; body.len()];
    payload::fill(&mut wanted, number);
    if wanted == body {
        Ok(number)
    } else {
        Err(damaged())
    }
}
