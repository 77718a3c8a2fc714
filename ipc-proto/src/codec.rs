//! Values to bytes and back: one version byte, then postcard.
//!
//! The version byte stands for the shape of the types in this crate. A reader refuses every version
//! but its own: shared queues are drained and recreated on an upgrade, never guessed at.

use serde::{Serialize, de::Deserialize};
use thiserror::Error;

use crate::Encoding;

/// The first byte of everything encoded here.
pub const VERSION: u8 = 1;

/// Why a value has no bytes, or bytes have no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// There is not even a version byte.
    #[error("nothing to decode: the payload is empty, not even a version byte")]
    Empty,
    /// The version byte is not [`VERSION`].
    #[error(
        "payload has encoding version {found}, this program reads version {VERSION}: \
         were these bytes written by another version, or not by `codec::encode`?"
    )]
    Version {
        /// The byte found.
        found: u8,
    },
    /// The bytes end early or do not fit the type.
    #[error("payload of {bytes} bytes is not a {wanted}: {reason}")]
    Malformed {
        /// The type that was asked for.
        wanted: &'static str,
        /// The length of the payload.
        bytes: usize,
        /// The decoder's reason.
        reason: String,
    },
    /// The value was read, but bytes are left over.
    #[error("{left} bytes are left over after a {wanted}: is this the type that was sent?")]
    Trailing {
        /// The type that was asked for.
        wanted: &'static str,
        /// How many.
        left: usize,
    },
    /// The value can't be encoded, for example a sequence of unknown length.
    #[error("a {given} can't be encoded: {reason}")]
    Unsupported {
        /// The value's type.
        given: &'static str,
        /// The encoder's reason.
        reason: String,
    },
    /// The value can be encoded, but the bytes would be read as another value, or as none.
    #[error("this {given} would not be read back as it is: {reason}")]
    NotReadBack {
        /// The value's type.
        given: &'static str,
        /// What would be lost, and what to do.
        reason: String,
    },
    /// This program was built without that encoding.
    #[error(
        "this program can't read or write {encoding}: build it with the feature \"{feature}\" of \
         ipc-queue"
    )]
    Unavailable {
        /// The encoding.
        encoding: Encoding,
        /// The cargo feature that it needs.
        feature: &'static str,
    },
}

/// The bytes of `value`.
///
/// # Errors
/// [`CodecError::Unsupported`] for types that postcard has no form for.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Replaces what `bytes` holds by the bytes of `value`, keeping its allocation.
///
/// # Errors
/// [`CodecError::Unsupported`] for types that postcard has no form for; `bytes` then holds no value.
pub fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), CodecError> {
    bytes.clear();
    append(value, bytes)
}

/// Puts the bytes of `value` behind what `bytes` holds. After an error `bytes` holds nothing of
/// use.
pub(crate) fn append<T: Serialize + ?Sized>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let mut buffer = std::mem::take(bytes);
    buffer.push(VERSION);
    *bytes = postcard::to_extend(value, buffer).map_err(|reason| CodecError::Unsupported {
        given: std::any::type_name::<T>(),
        reason: reason.to_string(),
    })?;
    Ok(())
}

/// The value that [`encode`] made `bytes` from. May borrow from them.
///
/// # Errors
/// Every [`CodecError`] but `Unsupported`: no bytes whatsoever make it panic.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, CodecError> {
    match decode_prefix(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(CodecError::Trailing {
            wanted: std::any::type_name::<T>(),
            left: rest.len(),
        }),
    }
}

/// The value that [`encode`] made the beginning of `bytes` from, and the bytes behind it.
///
/// For payloads that begin with a typed header and go on with raw content.
///
/// # Errors
/// As [`decode`], but for `Trailing`.
pub fn decode_prefix<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
) -> Result<(T, &'de [u8]), CodecError> {
    let (&found, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if found != VERSION {
        return Err(CodecError::Version { found });
    }
    postcard::take_from_bytes(body).map_err(|reason| CodecError::Malformed {
        wanted: std::any::type_name::<T>(),
        bytes: bytes.len(),
        reason: reason.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Kind, Message, MessageId, SenderId, Timestamp};

    fn any_message() -> impl Strategy<Value = Message<(String, Vec<u8>)>> {
        let kind = (0..4u8).prop_map(|raw| Kind::try_from(raw).unwrap());
        let id = any::<(u64, u64)>().prop_map(|(s, n)| MessageId::new(SenderId::new(s), n));
        (
            kind,
            id,
            any::<u64>(),
            any::<u8>(),
            any::<Option<(String, Vec<u8>)>>(),
        )
            .prop_map(|(kind, id, nanos, attempt, data)| Message {
                kind,
                id,
                timestamp: Timestamp::from_nanos(nanos),
                attempt,
                data,
            })
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(message in any_message()) {
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(decode::<Message<(String, Vec<u8>)>>(&bytes).unwrap(), message);
        }

        #[test]
        fn content_behind_a_header_is_given_back(message in any_message(), content in any::<Vec<u8>>()) {
            let mut bytes = encode(&message).unwrap();
            bytes.extend_from_slice(&content);
            let (header, rest) = decode_prefix::<Message<(String, Vec<u8>)>>(&bytes).unwrap();
            prop_assert_eq!((header, rest), (message, &content[..]));
        }

        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in any::<Vec<u8>>(), versioned in any::<bool>()) {
            let mut bytes = bytes;
            if versioned {
                bytes.insert(0, VERSION);
            }
            if let Ok(message) = decode::<Message<Vec<(u8, String)>>>(&bytes) {
                // What was accepted means something: it encodes to a value that decodes the same.
                prop_assert_eq!(decode(&encode(&message).unwrap()), Ok(message));
            }
        }

        #[test]
        fn a_truncated_message_is_an_error(message in any_message(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&message).unwrap();
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert!(decode::<Message<(String, Vec<u8>)>>(short).is_err());
        }
    }

    #[test]
    fn errors_name_what_was_wrong() {
        assert_eq!(decode::<u8>(&[]), Err(CodecError::Empty));
        assert_eq!(decode::<u8>(&[9, 1]), Err(CodecError::Version { found: 9 }));
        assert!(matches!(
            decode::<u8>(&[VERSION, 1, 2]),
            Err(CodecError::Trailing { left: 1, .. })
        ));
        assert!(matches!(
            decode::<String>(&[VERSION, 200]),
            Err(CodecError::Malformed { .. })
        ));
    }

    #[test]
    fn encode_into_keeps_the_allocation() {
        let mut bytes = Vec::with_capacity(256);
        let before = bytes.as_ptr();
        encode_into("a text", &mut bytes).unwrap();
        assert_eq!((bytes.as_ptr(), bytes[0]), (before, VERSION));
    }
}
