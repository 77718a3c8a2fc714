//! Named values that travel with a message, beside its payload.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The headers of a message: a small, bounded set of names, each with a value of any bytes.
///
/// Headers hold facts about the message that are not part of its payload: a trace context, a
/// content type, the name of a tenant. Names are unique. There are at most
/// [`MAX_COUNT`](Self::MAX_COUNT) headers, with at most [`MAX_BYTES`](Self::MAX_BYTES) bytes in
/// total.
///
/// ```
/// use ipc_proto::Headers;
///
/// let mut headers = Headers::new();
/// headers.insert("content-type", "image/png")?;
/// assert_eq!(headers.get("content-type"), Some(&b"image/png"[..]));
/// assert!(headers.insert("Content Type", "").is_err()); // not a valid name
/// # Ok::<(), ipc_proto::HeaderError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(String, Vec<u8>)>", into = "Vec<(String, Vec<u8>)>")]
pub struct Headers(Vec<(String, Vec<u8>)>);

/// The reason why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is empty, too long, or contains a character that is not allowed.
    #[error(
        "invalid header name {name:?}: use 1 to {} characters of a-z, 0-9, '.', '_' and '-'",
        Headers::MAX_NAME_BYTES
    )]
    Name {
        /// The rejected name.
        name: String,
    },
    /// There are more than [`Headers::MAX_COUNT`] headers.
    #[error(
        "too many headers: a message has at most {}; remove some or move them into the payload",
        Headers::MAX_COUNT
    )]
    TooMany,
    /// The headers are too large in total.
    #[error(
        "the headers are too large: {bytes} bytes in total, at most {} are allowed; move large \
         values into the payload",
        Headers::MAX_BYTES
    )]
    TooLarge {
        /// The size of all names, values and their length fields.
        bytes: usize,
    },
    /// The bytes are not encoded headers.
    #[error("these bytes are not encoded headers: use bytes that Headers::encode returned")]
    Malformed,
}

impl Headers {
    /// The maximum number of headers of one message.
    pub const MAX_COUNT: usize = 16;
    /// The maximum length of a name, in bytes.
    pub const MAX_NAME_BYTES: usize = 64;
    /// The maximum encoded size of all headers, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Creates an empty set of headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets the value of a header. A previous value of this header is replaced.
    ///
    /// # Errors
    /// [`HeaderError`]; the headers are then unchanged.
    pub fn insert(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HeaderError> {
        if !is_name(name) {
            let name = name.to_owned();
            return Err(HeaderError::Name { name });
        }
        let value = value.as_ref();
        let place = self.0.iter().position(|(known, _)| known == name);
        let replaced = place.map_or(0, |place| encoded_len(name, &self.0[place].1));
        let bytes = self.encoded_len() - replaced + encoded_len(name, value);
        if bytes > Self::MAX_BYTES {
            return Err(HeaderError::TooLarge { bytes });
        }
        match place {
            Some(place) => value.clone_into(&mut self.0[place].1),
            None if self.0.len() == Self::MAX_COUNT => return Err(HeaderError::TooMany),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// Returns the value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &value[..])
    }

    /// Returns the value of a header, if it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Iterates over all headers, in the order in which they were first inserted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// Returns the number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there are no headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of bytes that [`encode`](Self::encode) returns.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let each = self.0.iter();
        each.map(|(name, value)| encoded_len(name, value)).sum()
    }

    /// Encodes the headers. Each one is the length of its name (1 byte), the length of its value (2
    /// bytes, little-endian), the name, then the value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        for (name, value) in &self.0 {
            // Neither cast loses bits: both lengths were checked when the header was inserted.
            bytes.push(name.len() as u8);
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(value);
        }
        bytes
    }

    /// Decodes headers that [`encode`](Self::encode) returned.
    ///
    /// # Errors
    /// [`HeaderError`] if there are too many headers, or the bytes are something else.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut headers = Self::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<LENGTHS>() {
            let [name_len, value_len @ ..] = *head;
            let (name_len, value_len) = (
                usize::from(name_len),
                usize::from(u16::from_le_bytes(value_len)),
            );
            let (name, rest) = rest
                .split_at_checked(name_len)
                .ok_or(HeaderError::Malformed)?;
            let (value, rest) = rest
                .split_at_checked(value_len)
                .ok_or(HeaderError::Malformed)?;
            let name = std::str::from_utf8(name).map_err(|_| HeaderError::Malformed)?;
            if headers.get(name).is_some() {
                return Err(HeaderError::Malformed);
            }
            headers.insert(name, value)?;
            bytes = rest;
        }
        if bytes.is_empty() {
            Ok(headers)
        } else {
            Err(HeaderError::Malformed)
        }
    }
}

impl TryFrom<Vec<(String, Vec<u8>)>> for Headers {
    type Error = HeaderError;

    fn try_from(pairs: Vec<(String, Vec<u8>)>) -> Result<Self, HeaderError> {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.insert(&name, value)?;
        }
        Ok(headers)
    }
}

impl From<Headers> for Vec<(String, Vec<u8>)> {
    fn from(headers: Headers) -> Self {
        headers.0
    }
}

/// The size of the two length fields before each header's name, in bytes.
const LENGTHS: usize = 3;

fn encoded_len(name: &str, value: &[u8]) -> usize {
    LENGTHS + name.len() + value.len()
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-')
    };
    (1..=Headers::MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_replaced_and_the_limits_hold() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        headers.insert("a", "2").unwrap();
        assert_eq!((headers.len(), headers.get_str("a")), (1, Some("2")));
        for name in ["", "A", "a b", "ä", &"n".repeat(65)] {
            let refused = headers.insert(name, "");
            assert!(matches!(refused, Err(HeaderError::Name { .. })), "{name}");
        }
        let large = vec![0; Headers::MAX_BYTES];
        let refused = headers.insert("b", &large);
        assert!(matches!(refused, Err(HeaderError::TooLarge { .. })));
        for number in 1..Headers::MAX_COUNT {
            headers.insert(&format!("h{number}"), "").unwrap();
        }
        assert_eq!(headers.insert("one-more", ""), Err(HeaderError::TooMany));
        assert_eq!(Headers::decode(&headers.encode()), Ok(headers));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_headers_or_an_error(bytes: Vec<u8>) {
            if let Ok(headers) = Headers::decode(&bytes) {
                prop_assert_eq!(headers.encode(), bytes);
            }
        }
    }
}
