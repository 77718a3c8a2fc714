//! Names of queues, segments, nodes and namespaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The maximum length of a name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The name of a namespace, or of a queue, segment or node in one.
///
/// Matches `[a-z0-9][a-z0-9._-]{0,63}`, so it is a safe file name, URL part and NATS token on every
/// platform. Two names never differ only in case.
///
/// ```
/// use ipc_proto::Name;
///
/// let name: Name = "jobs.high-priority".parse()?;
/// assert_eq!(name.as_str(), "jobs.high-priority");
/// assert!("../etc/passwd".parse::<Name>().is_err());
/// # Ok::<(), ipc_proto::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The reason why a text is not a valid [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    #[error("the name is empty: use 1 to {MAX_NAME_BYTES} characters of a-z 0-9 . _ -")]
    Empty,
    /// The text is longer than [`MAX_NAME_BYTES`].
    #[error("invalid name {name:?}…: it has {bytes} bytes; use at most {MAX_NAME_BYTES}")]
    TooLong {
        /// Its first [`MAX_NAME_BYTES`] characters.
        name: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The text contains a character that is not allowed, or not allowed at this position.
    #[error(
        "invalid name {name:?}: it has {found:?} at byte {at}; use a-z and 0-9, and after the \
         first character also . _ -"
    )]
    BadCharacter {
        /// The whole text.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// Its byte offset.
        at: usize,
    },
}

impl Name {
    /// Checks `text` and copies it.
    ///
    /// # Errors
    /// [`NameError`] describes the first problem found.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong {
                name: text.chars().take(MAX_NAME_BYTES).collect(),
                bytes: text.len(),
            });
        }
        match text.char_indices().find(|&(at, c)| !is_allowed(at, c)) {
            None => Ok(Self(text.to_owned())),
            Some((at, found)) => Err(NameError::BadCharacter {
                name: text.to_owned(),
                found,
                at,
            }),
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(at: usize, c: char) -> bool {
    match c {
        'a'..='z' | '0'..='9' => true,
        '.' | '_' | '-' => at > 0,
        _ => false,
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the first characters of a text: at most `most` bytes, never a part of a character.
#[must_use]
pub fn shortened(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_that_would_escape_a_folder_or_a_url_is_refused() {
        for bad in [
            "", ".", "..", ".hidden", "a/b", "A", "a b", "ä", "-x", "a\0", "a*", "a>",
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Name::new(&"a".repeat(65)).is_err());
        assert!(Name::new(&"a".repeat(64)).is_ok());
    }

    #[test]
    fn an_error_names_the_bad_character_and_its_position() {
        let error = Name::new("jobs/high").unwrap_err();
        assert!(error.to_string().contains("'/' at byte 4"), "{error}");
    }

    proptest! {
        #[test]
        fn exactly_the_documented_pattern_is_accepted(text in "\\PC{0,70}|[a-z0-9._-]{0,70}") {
            let bytes = text.as_bytes();
            let tail = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
            let wanted = (1..=64).contains(&bytes.len())
                && tail(&bytes[0]) && !b"._-".contains(&bytes[0])
                && bytes.iter().all(tail);
            prop_assert_eq!(Name::new(&text).is_ok(), wanted);
        }

        #[test]
        fn a_name_round_trips_through_the_codec(text in "[a-z0-9][a-z0-9._-]{0,63}") {
            let name = Name::new(&text).unwrap();
            let bytes = crate::codec::encode(&name).unwrap();
            prop_assert_eq!(crate::codec::decode::<Name>(&bytes).unwrap(), name);
        }
    }

    #[test]
    fn a_text_is_shortened_only_between_characters() {
        let cut = |most| shortened("aé𝄞", most);
        let all: Vec<_> = (0..9).map(cut).collect();
        assert_eq!(all, ["", "a", "a", "aé", "aé", "aé", "aé", "aé𝄞", "aé𝄞"]);
    }
}
