//! The shape of a type: its fields, variants and their order, as one line of text.
//!
//! postcard writes neither names nor types, so only a type of the same shape can read a value.
//! Finding the shape needs no extra derive. `T::deserialize` is run repeatedly on a deserializer
//! that records each request and answers it with sample values. Most runs end in an error. A run
//! that records something new is progress.
//!
//! | text | type |
//! |---|---|
//! | `u8`, `str`, `bytes`, … | a number, a string, bytes |
//! | `()` | a unit |
//! | `option<S>`, `[S]`, `map<S, S>` | an option, a sequence, a map |
//! | `(S, S)`, `(S; 32)` | a tuple; with 32 equal elements |
//! | `{name: S, name: S}` | a struct |
//! | `enum{Name, Name: S}` | an enum; a variant without, and with content |
//! | `^2` | the second enclosing struct or enum, counted from the inside |
//!
//! Names of structs and newtypes are omitted: they are not part of the encoding.

mod diff;
mod producer;
mod tracer;

use std::fmt::{self, Write};

use serde::de::DeserializeOwned;
use thiserror::Error;

pub(crate) use diff::difference;

/// The shape of a type, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(String);

/// The reason why the shape of a type could not be found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The type accepts values of any type. Only a self-describing encoding supports that.
    #[error(
        "{wanted} has no fixed shape, but the encoding postcard needs one: {at} accepts values of \
         any type (an untagged or internally tagged enum, or a flattened field); use \
         Encoding::MessagePack or Encoding::Json"
    )]
    AnyType {
        /// The type.
        wanted: &'static str,
        /// The place within the type.
        at: String,
    },
    /// The type refuses all sample values.
    #[error(
        "cannot find the shape of {wanted}, which the encoding postcard needs: {at} refuses \
         every sample value ({reason}); use Encoding::MessagePack or Encoding::Json"
    )]
    Untraceable {
        /// The type.
        wanted: &'static str,
        /// The place within the type.
        at: String,
        /// The last error that the type returned.
        reason: String,
    },
}

impl Shape {
    /// Returns the shape of `T`, as its `Deserialize` implementation requests it.
    ///
    /// ```
    /// use ipc_proto::Shape;
    ///
    /// assert_eq!(Shape::of::<(u8, Option<Vec<String>>)>()?.as_str(), "(u8, option<[str]>)");
    /// # Ok::<(), ipc_proto::ShapeError>(())
    /// ```
    ///
    /// # Errors
    /// [`ShapeError`] names the place within the type.
    pub fn of<T: DeserializeOwned>() -> Result<Self, ShapeError> {
        tracer::trace::<T>().map(|node| Self(node.to_string()))
    }

    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the text of the shape.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a hash of the text: FNV-1a, 64 bits. <http://www.isthe.com/chongo/tech/comp/fnv/>
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// What is known about the shape at one place of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Unknown,
    Leaf(&'static str),
    Option(Box<Self>),
    Seq(Box<Self>),
    Map(Box<Self>, Box<Self>),
    Tuple(Vec<Self>),
    Struct(Vec<(&'static str, Self)>),
    Enum(Vec<(&'static str, Self)>),
    /// An enclosing struct or enum, this many levels up.
    Outer(usize),
}

impl Node {
    fn unknown_box() -> Box<Self> {
        Box::new(Self::Unknown)
    }

    fn is_complete(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Leaf(_) | Self::Outer(_) => true,
            Self::Option(inner) | Self::Seq(inner) => inner.is_complete(),
            Self::Map(key, value) => key.is_complete() && value.is_complete(),
            Self::Tuple(elements) => elements.iter().all(Self::is_complete),
            Self::Struct(named) | Self::Enum(named) => {
                named.iter().all(|(_, node)| node.is_complete())
            }
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_char('?'),
            Self::Leaf(name) => f.write_str(name),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::Seq(inner) => write!(f, "[{inner}]"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Tuple(elements) => match &elements[..] {
                [first, rest @ ..] if rest.len() > 1 && rest.iter().all(|one| one == first) => {
                    write!(f, "({first}; {})", elements.len())
                }
                elements => {
                    f.write_char('(')?;
                    for (index, element) in elements.iter().enumerate() {
                        write!(f, "{}{element}", if index > 0 { ", " } else { "" })?;
                    }
                    f.write_char(')')
                }
            },
            Self::Struct(fields) => write_named(f, fields),
            Self::Enum(variants) => {
                f.write_str("enum")?;
                write_named(f, variants)
            }
            Self::Outer(levels) => write!(f, "^{levels}"),
        }
    }
}

const UNIT: Node = Node::Leaf("()");

fn write_named(f: &mut fmt::Formatter<'_>, named: &[(&'static str, Node)]) -> fmt::Result {
    f.write_char('{')?;
    for (index, (name, node)) in named.iter().enumerate() {
        f.write_str(if index > 0 { ", " } else { "" })?;
        let is_plain = name
            .chars()
            .all(|c| c.is_alphanumeric() || "_-./".contains(c));
        if is_plain {
            f.write_str(name)?;
        } else {
            write!(f, "{name:?}")?;
        }
        if *node != UNIT {
            write!(f, ": {node}")?;
        }
    }
    f.write_char('}')
}

#[cfg(test)]
mod tests;
