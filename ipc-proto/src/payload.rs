//! The name of a queue's payloads: their encoding, their type and, for postcard, its shape.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use crate::Encoding;
use crate::shape::{self, Shape};

/// The description of a queue's payloads.
///
/// It is stored with the queue as text: `msgpack:Job`, `json:Job`,
/// `postcard:Job#0c28f2b4f0c4b0a7={n: u8}`. Any other text is a name for plain bytes. The empty
/// text means bytes without a name.
///
/// ```
/// use ipc_proto::{Encoding, PayloadName};
///
/// let payload: PayloadName = "json:Job".parse().unwrap();
/// assert_eq!((payload.encoding, &payload.type_name[..]), (Some(Encoding::Json), "Job"));
/// let bytes: PayloadName = "thumbnails".parse().unwrap();
/// assert_eq!(bytes.encoding, None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayloadName {
    /// The encoding; `None` for plain bytes.
    pub encoding: Option<Encoding>,
    /// The name of the type.
    pub type_name: String,
    /// The shape of the type, if the encoding is postcard.
    pub shape: Option<PayloadShape>,
}

/// The stored part of the shape of a payload's type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PayloadShape {
    /// The fingerprint of the shape.
    pub fingerprint: u64,
    /// The text of the shape. `None` if it was too long to be stored, or is damaged.
    pub text: Option<String>,
}

impl PayloadName {
    /// The maximum size of a stored shape: 16 KiB. Longer shapes are stored as a fingerprint only.
    pub const MAX_SHAPE_BYTES: usize = 16 << 10;

    /// Creates the name for the type `type_name` in a self-describing encoding.
    #[must_use]
    pub fn typed(encoding: Encoding, type_name: &str) -> Self {
        Self {
            encoding: Some(encoding),
            type_name: type_name.to_owned(),
            shape: None,
        }
    }

    /// Adds a shape to the name.
    #[must_use]
    pub fn with_shape(mut self, shape: &Shape) -> Self {
        let text = shape.as_str();
        self.shape = Some(PayloadShape {
            fingerprint: shape.fingerprint(),
            text: (text.len() <= Self::MAX_SHAPE_BYTES).then(|| text.to_owned()),
        });
        self
    }

    /// Returns the name without the text of the shape. It fits on one line.
    #[must_use]
    pub fn short(&self) -> String {
        let name = match self.encoding {
            None if self.type_name.is_empty() => "plain bytes".to_owned(),
            None => self.type_name.clone(),
            Some(encoding) => format!("{encoding}:{}", self.type_name),
        };
        match &self.shape {
            Some(shape) => format!("{name}#{:016x}", shape.fingerprint),
            None => name,
        }
    }

    /// Compares two shapes, one line for each field. Without both texts, lists what is known of
    /// each.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let text = |name: &Self| name.shape.as_ref().and_then(|shape| shape.text.clone());
        match (text(self), text(other)) {
            (Some(old), Some(new)) => shape::difference(&old, &new),
            (old, new) => [(self, old, "-"), (other, new, "+")]
                .map(|(name, text, sign)| {
                    let text = text.unwrap_or_else(|| "(its shape is not stored)".to_owned());
                    format!("\n  {sign} {}: {text}", name.short())
                })
                .concat(),
        }
    }
}

impl fmt::Display for PayloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(encoding) = self.encoding {
            write!(f, "{encoding}:")?;
        }
        f.write_str(&self.type_name)?;
        if let Some(shape) = &self.shape {
            write!(f, "#{:016x}", shape.fingerprint)?;
            if let Some(text) = &shape.text {
                write!(f, "={text}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for PayloadName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let typed = Encoding::ALL.into_iter().find_map(|encoding| {
            let rest = text.strip_prefix(encoding.as_str())?;
            Some((encoding, rest.strip_prefix(':')?))
        });
        Ok(match typed {
            None => Self {
                type_name: text.to_owned(),
                ..Self::default()
            },
            Some((Encoding::Postcard, rest)) => match split_shape(rest) {
                Some((name, shape)) => Self {
                    shape: Some(shape),
                    ..Self::typed(Encoding::Postcard, name)
                },
                None => Self::typed(Encoding::Postcard, rest),
            },
            Some((encoding, rest)) => Self::typed(encoding, rest),
        })
    }
}

/// `Job#0123456789abcdef={…}`
fn split_shape(text: &str) -> Option<(&str, PayloadShape)> {
    const DIGITS: usize = 16;
    text.match_indices('#').find_map(|(at, _)| {
        let digits = text.get(at + 1..at + 1 + DIGITS)?;
        let fingerprint = u64::from_str_radix(digits, 16).ok()?;
        let shape = match &text[at + 1 + DIGITS..] {
            "" => None,
            behind => Some(Shape::from_text(behind.strip_prefix('=')?)),
        };
        // A text that is truncated or damaged has another fingerprint.
        let whole = shape.filter(|shape| shape.fingerprint() == fingerprint);
        let text_of = |shape: Shape| shape.as_str().to_owned();
        let shape = PayloadShape {
            fingerprint,
            text: whole.map(text_of),
        };
        Some((&text[..at], shape))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_name_round_trips_through_its_text() {
        let shape = Shape::of::<(String, Option<u8>)>().unwrap();
        let names = [
            PayloadName::default(),
            PayloadName::typed(Encoding::Json, "Job"),
            PayloadName::typed(Encoding::MessagePack, "Vec<Job>"),
            PayloadName::typed(Encoding::Postcard, "a#b").with_shape(&shape),
        ];
        for name in names {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        let plain: PayloadName = "order/2".parse().unwrap();
        assert_eq!((plain.encoding, &plain.short()[..]), (None, "order/2"));
    }

    #[test]
    fn a_truncated_shape_keeps_only_its_fingerprint() {
        let shape = Shape::of::<(String, u8)>().unwrap();
        let name = PayloadName::typed(Encoding::Postcard, "Job").with_shape(&shape);
        let text = name.to_string();
        let cut: PayloadName = text[..text.len() - 1].parse().unwrap();
        let cut_shape = cut.shape.clone().unwrap();
        assert_eq!(cut_shape.fingerprint, shape.fingerprint());
        assert_eq!(cut_shape.text, None);
        let difference = cut.difference(&name);
        assert!(difference.contains(&cut.short()), "{difference}");
        assert!(difference.contains("(str, u8)"), "{difference}");
    }
}
