//! The encodings of a typed queue's payloads.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(feature = "msgpack")]
use serde::de::{Deserialize, IgnoredAny};

use crate::codec::{self, CodecError};
use crate::faithful::{self, Rules};

/// The encoding of a typed queue's values. It is a property of the queue: part of its payload's
/// [name](crate::PayloadName).
///
/// | | MessagePack | JSON | postcard |
/// |---|---|---|---|
/// | a field is added or removed | old and new programs keep working | the same | refused at open |
/// | other languages | yes | yes | no |
/// | types that accept any value (untagged enums, flattened fields) | yes | yes | no |
/// | size | field names, compact values | field names, text | values only |
///
/// Old programs ignore unknown fields. A new program can read messages without a new field if that
/// field has `#[serde(default)]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// [MessagePack](https://msgpack.org), structs as maps. Needs the feature `msgpack`, which is
    /// on by default.
    MessagePack,
    /// JSON. Needs the feature `json`.
    Json,
    /// A version byte, then [postcard](https://docs.rs/postcard). Compact and fast, but only a type
    /// of the same [shape](crate::Shape) can read it.
    Postcard,
}

/// MessagePack, because it allows rolling upgrades. Without the feature `msgpack`: postcard.
impl Default for Encoding {
    fn default() -> Self {
        if cfg!(feature = "msgpack") {
            Self::MessagePack
        } else {
            Self::Postcard
        }
    }
}

impl Encoding {
    pub(crate) const ALL: [Self; 3] = [Self::MessagePack, Self::Json, Self::Postcard];

    /// Returns its name: `msgpack`, `json` or `postcard`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessagePack => "msgpack",
            Self::Json => "json",
            Self::Postcard => "postcard",
        }
    }

    /// Returns `true` if the bytes contain field names, so that they can be read without the type.
    #[must_use]
    pub const fn is_self_describing(self) -> bool {
        !matches!(self, Self::Postcard)
    }

    /// Checks that this program was built with the encoding.
    ///
    /// # Errors
    /// [`CodecError::Unavailable`] names the missing feature.
    pub fn check_available(self) -> Result<(), CodecError> {
        let (is_there, feature) = match self {
            Self::MessagePack => (cfg!(feature = "msgpack"), "msgpack"),
            Self::Json => (cfg!(feature = "json"), "json"),
            Self::Postcard => return Ok(()),
        };
        let unavailable = CodecError::Unavailable {
            encoding: self,
            feature,
        };
        if is_there { Ok(()) } else { Err(unavailable) }
    }

    /// Appends the encoded `value` to `bytes`. Always appends at least one byte, because an empty
    /// payload stands for a message without data.
    ///
    /// # Errors
    /// - [`CodecError::Unsupported`]: this encoding cannot represent the value.
    /// - [`CodecError::NotReadBack`]: the bytes would be read as another value.
    /// - [`CodecError::Unavailable`]: this program was built without the encoding.
    ///
    /// After an error the contents of `bytes` are unspecified.
    pub fn append<T: Serialize + ?Sized>(
        self,
        value: &T,
        bytes: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let given = std::any::type_name::<T>();
        let rules = Rules::of(self);
        let faithful = faithful::Value::new(value, &rules);
        let appended = match self {
            Self::Postcard => codec::append(&faithful, bytes).map_err(|error| match error {
                CodecError::Unsupported { reason, .. } => reason,
                other => other.to_string(),
            }),
            #[cfg(feature = "msgpack")]
            Self::MessagePack => {
                let mut serializer = rmp_serde::Serializer::new(&mut *bytes)
                    .with_struct_map()
                    .with_human_readable();
                let written = faithful.serialize(&mut serializer);
                written.map_err(|error| error.to_string())
            }
            #[cfg(feature = "json")]
            Self::Json => {
                serde_json::to_writer(&mut *bytes, &faithful).map_err(|error| error.to_string())
            }
            #[cfg(not(all(feature = "msgpack", feature = "json")))]
            _ => return self.check_available(),
        };
        appended.map_err(|reason| match rules.broken() {
            Some(rule) => CodecError::NotReadBack {
                given,
                reason: rule.to_string(),
            },
            None => CodecError::Unsupported { given, reason },
        })
    }

    /// Decodes a value that [`append`](Self::append) encoded.
    ///
    /// # Errors
    /// Every other [`CodecError`]. It never panics, whatever the bytes are.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        let decoded: Result<T, String> = match self {
            Self::Postcard => return codec::decode(bytes),
            #[cfg(feature = "msgpack")]
            Self::MessagePack => {
                let mut deserializer =
                    rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
                let decoded = T::deserialize(&mut deserializer);
                let decoded = decoded.map_err(|error| error.to_string());
                // At the end of the input, reading a further value fails at its first byte. Any
                // other outcome means that bytes are left.
                match IgnoredAny::deserialize(&mut deserializer) {
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => decoded,
                    _ => decoded.and(Err("there are bytes left after the value".to_owned())),
                }
            }
            #[cfg(feature = "json")]
            Self::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            #[cfg(not(all(feature = "msgpack", feature = "json")))]
            _ => {
                self.check_available()?;
                Err(String::new())
            }
        };
        decoded.map_err(|reason| CodecError::Malformed {
            wanted: std::any::type_name::<T>(),
            bytes: bytes.len(),
            reason,
        })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Job {
        id: u64,
        file: String,
        ratio: f64,
        limits: Option<(u8, i64)>,
        what: What,
        tags: BTreeMap<String, Vec<u8>>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum What {
        Stop,
        Resize { width: u32 },
        Move(String, char),
    }

    fn available() -> impl Iterator<Item = Encoding> {
        let all = Encoding::ALL.into_iter();
        all.filter(|encoding| encoding.check_available().is_ok())
    }

    fn encoded<T: Serialize>(encoding: Encoding, value: &T) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::new();
        encoding.append(value, &mut bytes).map(|()| bytes)
    }

    fn any_job() -> impl Strategy<Value = Job> {
        let what = prop_oneof![
            Just(What::Stop),
            any::<u32>().prop_map(|width| What::Resize { width }),
            any::<(String, char)>().prop_map(|(to, sign)| What::Move(to, sign)),
        ];
        let tags = proptest::collection::btree_map(any::<String>(), any::<Vec<u8>>(), 0..4);
        let rest = (any::<u64>(), any::<String>(), any::<Option<(u8, i64)>>());
        (rest, -1e9..1e9, what, tags).prop_map(|((id, file, limits), ratio, what, tags)| Job {
            id,
            file,
            ratio,
            limits,
            what,
            tags,
        })
    }

    proptest! {
        #[test]
        fn values_round_trip_through_every_encoding(job in any_job()) {
            for encoding in available() {
                let bytes = encoded(encoding, &job).unwrap();
                prop_assert_eq!(encoding.decode::<Job>(&bytes).unwrap(), job.clone());
            }
        }

        #[test]
        fn any_bytes_decode_to_a_value_or_an_error(bytes in any::<Vec<u8>>()) {
            for encoding in available() {
                let _ = encoding.decode::<Job>(&bytes);
            }
        }

        #[test]
        fn truncated_bytes_and_trailing_bytes_are_errors(
            job in any_job(),
            cut in any::<prop::sample::Index>(),
        ) {
            for encoding in available() {
                let mut bytes = encoded(encoding, &job).unwrap();
                prop_assert!(encoding.decode::<Job>(&bytes[..cut.index(bytes.len())]).is_err());
                bytes.push(0);
                prop_assert!(encoding.decode::<Job>(&bytes).is_err());
            }
        }
    }

    #[test]
    fn appending_keeps_the_bytes_before_it() {
        for encoding in available() {
            let mut bytes = b"before".to_vec();
            encoding.append(&7_u8, &mut bytes).unwrap();
            let behind = bytes.strip_prefix(b"before").unwrap();
            assert_eq!(encoding.decode::<u8>(behind), Ok(7));
        }
    }

    /// One job type in the previous release (`Old`) and in the next one (`New`).
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        id: u64,
        file: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        file: String,
        #[serde(default)]
        width: u32,
        id: u64,
    }

    #[test]
    fn self_describing_encodings_allow_adding_moving_and_removing_fields() {
        for encoding in available().filter(|encoding| encoding.is_self_describing()) {
            let file = || "a.png".to_owned();
            let old = Old {
                id: 7,
                file: file(),
            };
            let new = New {
                id: 7,
                file: file(),
                width: 0,
            };
            let bytes = encoded(encoding, &old).unwrap();
            assert_eq!(encoding.decode::<New>(&bytes).unwrap(), new);
            let bytes = encoded(encoding, &New { width: 640, ..new }).unwrap();
            assert_eq!(encoding.decode::<Old>(&bytes).unwrap(), old);
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Sparse {
        #[serde(skip_serializing_if = "Option::is_none", default)]
        note: Option<String>,
        number: f64,
        twice: Option<Option<u8>>,
    }

    #[test]
    fn a_value_that_would_be_read_back_differently_is_refused() {
        let refused = |encoding, value: &Sparse, why: &str| {
            let error = encoded(encoding, value).unwrap_err();
            assert!(matches!(error, CodecError::NotReadBack { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        };
        let some_none = Sparse {
            twice: Some(None),
            note: Some(String::new()),
            ..Sparse::default()
        };
        let infinite = Sparse {
            number: f64::INFINITY,
            note: Some(String::new()),
            ..Sparse::default()
        };
        refused(Encoding::Postcard, &Sparse::default(), "\"note\"");
        for encoding in available() {
            match encoding {
                Encoding::Postcard => {
                    let bytes = encoded(encoding, &some_none).unwrap();
                    assert_eq!(encoding.decode::<Sparse>(&bytes).unwrap(), some_none);
                }
                _ => {
                    let bytes = encoded(encoding, &Sparse::default()).unwrap();
                    assert_eq!(encoding.decode::<Sparse>(&bytes), Ok(Sparse::default()));
                    refused(encoding, &some_none, "within Some");
                }
            }
            if encoding == Encoding::Json {
                refused(encoding, &infinite, "JSON has no form");
            } else {
                let bytes = encoded(encoding, &infinite).unwrap();
                assert_eq!(encoding.decode::<Sparse>(&bytes).unwrap(), infinite);
            }
        }
    }
}
