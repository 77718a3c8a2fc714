//! Encodes values as bytes and decodes them: one version byte, then postcard.
//!
//! The version byte stands for the shape of the types in this crate. A reader accepts only its own
//! version. On an upgrade, shared queues are drained and created again; old bytes are never guessed
//! at.

use serde::{Serialize, de::Deserialize};
use thiserror::Error;

use crate::Encoding;

/// The first byte of everything encoded here.
pub const VERSION: u8 = 1;

/// The reason why a value cannot be encoded, or bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The payload is empty.
    #[error(
        "cannot decode an empty payload, it has no version byte: was the message sent without data?"
    )]
    Empty,
    /// The version byte is not [`VERSION`].
    #[error(
        "unknown encoding version {found} (this program reads version {VERSION}): \
         were these bytes written by another version, or not by `codec::encode`?"
    )]
    Version {
        /// The byte found.
        found: u8,
    },
    /// The bytes end early or do not match the type.
    #[error("cannot decode {bytes} bytes as {wanted}: {reason}; is this the type that was sent?")]
    Malformed {
        /// The type to decode.
        wanted: &'static str,
        /// The length of the payload.
        bytes: usize,
        /// The decoder's reason.
        reason: String,
    },
    /// The value was decoded, but bytes are left.
    #[error("{left} bytes are left after decoding {wanted}; is this the type that was sent?")]
    Trailing {
        /// The type to decode.
        wanted: &'static str,
        /// The number of bytes left.
        left: usize,
    },
    /// The value cannot be encoded, for example a sequence of unknown length.
    #[error("cannot encode {given}: {reason}")]
    Unsupported {
        /// The value's type.
        given: &'static str,
        /// The encoder's reason.
        reason: String,
    },
    /// The value can be encoded, but the bytes would decode to another value or to an error.
    #[error("this {given} would be read back differently: {reason}")]
    NotReadBack {
        /// The value's type.
        given: &'static str,
        /// What would be lost, and what to do.
        reason: String,
    },
    /// This program was built without the encoding.
    #[error(
        "this program was built without the encoding {encoding}: build it with the feature \
         \"{feature}\" of ipc-queue"
    )]
    Unavailable {
        /// The encoding.
        encoding: Encoding,
        /// The cargo feature that the encoding needs.
        feature: &'static str,
    },
}

/// Encodes a value.
///
/// # Errors
/// [`CodecError::Unsupported`] for types that postcard cannot represent.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes)?;
    Ok(bytes)
}

/// Encodes a value into `bytes`, replacing its contents and reusing its allocation.
///
/// # Errors
/// [`CodecError::Unsupported`] for types that postcard cannot represent. `bytes` then holds no
/// complete value.
pub fn encode_into<T: Serialize + ?Sized>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), CodecError> {
    bytes.clear();
    append(value, bytes)
}

/// Appends the encoded `value` to `bytes`. After an error the contents of `bytes` are unspecified.
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

/// Decodes a value that [`encode`] encoded. The value may borrow from `bytes`.
///
/// # Errors
/// Every [`CodecError`] except `Unsupported`. It never panics, whatever the bytes are.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, CodecError> {
    match decode_prefix(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(CodecError::Trailing {
            wanted: std::any::type_name::<T>(),
            left: rest.len(),
        }),
    }
}

/// Decodes a value at the start of `bytes`. Returns it and the bytes after it.
///
/// For payloads that consist of a typed header and raw content.
///
/// # Errors
/// Those of [`decode`], except `Trailing`.
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
        fn messages_round_trip_through_the_codec(message in any_message()) {
            let bytes = encode(&message).unwrap();
            prop_assert_eq!(decode::<Message<(String, Vec<u8>)>>(&bytes).unwrap(), message);
        }

        #[test]
        fn content_after_a_header_is_returned_unchanged(
            message in any_message(),
            content in any::<Vec<u8>>(),
        ) {
            let mut bytes = encode(&message).unwrap();
            bytes.extend_from_slice(&content);
            let (header, rest) = decode_prefix::<Message<(String, Vec<u8>)>>(&bytes).unwrap();
            prop_assert_eq!((header, rest), (message, &content[..]));
        }

        #[test]
        fn any_bytes_decode_to_a_value_or_an_error(
            bytes in any::<Vec<u8>>(),
            versioned in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if versioned {
                bytes.insert(0, VERSION);
            }
            if let Ok(message) = decode::<Message<Vec<(u8, String)>>>(&bytes) {
                // An accepted message encodes to bytes that decode to the same message.
                prop_assert_eq!(decode(&encode(&message).unwrap()), Ok(message));
            }
        }

        #[test]
        fn a_truncated_message_is_an_error(
            message in any_message(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encode(&message).unwrap();
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert!(decode::<Message<(String, Vec<u8>)>>(short).is_err());
        }
    }

    #[test]
    fn each_kind_of_damage_has_its_own_error() {
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
    fn encode_into_reuses_the_allocation() {
        let mut bytes = Vec::with_capacity(256);
        let before = bytes.as_ptr();
        encode_into("a text", &mut bytes).unwrap();
        assert_eq!((bytes.as_ptr(), bytes[0]), (before, VERSION));
    }
}
