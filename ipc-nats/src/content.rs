//! The content of a message: a payload, and headers, which are headers of the NATS message with the
//! payload.
//!
//! | header | value |
//! |---|---|
//! | `Ipc-Headers` | the names, in their order, separated by commas; absent if there are none |
//! | `Ipc-Header-NAME` | the header's value; `%` and each byte that is not visible ASCII as `%XX` |
//!
//! The message in the work queue has these headers until it is acked. The record of a dead letter
//! has them as well. All other records have neither headers nor a payload.

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use ipc_proto::Headers;

/// The headers and the payload of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) headers: Headers,
    /// Empty if the payload is in the object store.
    pub(crate) payload: Bytes,
}

/// A NATS message's headers are not a valid encoding of a message's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

const NAMES: &str = "Ipc-Headers";
const PREFIX: &str = "Ipc-Header-";

impl Content {
    pub(crate) fn new(headers: Headers, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        Self { headers, payload }
    }

    /// Adds the message's headers to those of a NATS message.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if self.headers.is_empty() {
            return;
        }
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name).collect();
        headers.insert(NAMES, names.join(","));
        for (name, value) in self.headers.iter() {
            headers.insert(format!("{PREFIX}{name}"), escape(value));
        }
    }

    pub(crate) fn read(headers: &HeaderMap, payload: Bytes) -> Result<Self, Malformed> {
        let mut read = Headers::new();
        if let Some(names) = headers.get(NAMES) {
            for name in names.as_str().split(',') {
                let place = format!("{PREFIX}{name}").parse::<HeaderName>();
                let place = place.map_err(|_| Malformed)?;
                let value = headers.get(place).ok_or(Malformed)?;
                let value = unescape(value.as_str()).ok_or(Malformed)?;
                read.insert(name, value).map_err(|_| Malformed)?;
            }
        }
        Ok(Self::new(read, payload))
    }

    /// The most bytes that a NATS message needs for this content.
    pub(crate) fn most_bytes(&self) -> usize {
        // For each header: its name twice, and the bytes around it.
        const AROUND: usize = PREFIX.len() + 5;
        let header = |(name, value): (&str, &[u8])| 2 * name.len() + 3 * value.len() + AROUND;
        self.payload.len() + self.headers.iter().map(header).sum::<usize>()
    }
}

fn escape(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        match byte {
            b'!'..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(byte).ok()?);
        rest = behind;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &Content) -> HeaderMap {
        let mut map = HeaderMap::new();
        content.write(&mut map);
        map
    }

    #[test]
    fn headers_of_any_bytes_are_read_as_they_were_written() {
        let mut headers = Headers::new();
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        for (name, value) in [
            ("z", &every_byte[..]),
            ("empty", b""),
            ("a.b_c-9", b" 50% off "),
        ] {
            headers.insert(name, value).unwrap();
        }
        let content = Content::new(headers, "payload");
        let map = written(&content);
        assert_eq!(Content::read(&map, "payload".into()), Ok(content));
    }

    #[test]
    fn encoded_headers_stay_readable_and_empty_ones_need_none() {
        let mut headers = Headers::new();
        headers.insert("traceparent", "00-4bf9-00f0-01").unwrap();
        let map = written(&Content::new(headers, ""));
        let value = map.get("Ipc-Header-traceparent").unwrap();
        assert_eq!(value.as_str(), "00-4bf9-00f0-01");
        assert!(written(&Content::new(Headers::new(), "payload")).is_empty());
    }

    #[test]
    fn records_not_written_by_us_are_an_error() {
        for (names, value) in [
            ("a", "%"),
            ("a", "%4"),
            ("a", "%4G"),
            ("A", "1"),
            ("a,b", "1"),
            ("a, a", "1"),
            ("", "1"),
        ] {
            let mut map = HeaderMap::new();
            map.insert(NAMES, names);
            map.insert("Ipc-Header-a", value);
            map.insert("Ipc-Header-A", value);
            let read = Content::read(&map, Bytes::new());
            assert_eq!(read, Err(Malformed), "{names}: {value}");
        }
    }

    #[test]
    fn the_size_that_is_reserved_is_enough() {
        let mut headers = Headers::new();
        headers.insert("all-escaped", [0; 1000]).unwrap();
        headers.insert("b", "").unwrap();
        let content = Content::new(headers, vec![0; 10]);
        let lines = written(&content);
        let lines = lines.iter().filter(|(name, _)| name.to_string() != NAMES);
        let bytes: usize = lines
            .map(|(name, values)| name.to_string().len() + 4 + values[0].as_str().len())
            .sum();
        let names = "all-escaped,b".len();
        assert!(content.most_bytes() >= 10 + bytes + names);
        assert!(content.most_bytes() < 10 + bytes + names + 100);
    }
}
