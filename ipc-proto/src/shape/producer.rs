//! A deserializer that produces sample values of a type, different ones on each run.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

/// The sample chosen at each place of a run. The choices are the digits of a counter; the last
/// place is the lowest digit.
#[derive(Debug, Default)]
pub(super) struct Choices {
    /// The choice at each place that the run reached, and the number of choices there.
    made: Vec<(usize, usize)>,
    at: usize,
    /// The enclosing structs and enums: the name of each, and the address of its list of field or
    /// variant names.
    around: Vec<(&'static str, usize)>,
}

impl Choices {
    /// Prepares for a run.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
        self.around.clear();
    }

    pub(super) fn clear(&mut self) {
        self.made.clear();
    }

    /// Selects other choices for the next run. Returns `false` when all were tried.
    pub(super) fn advance(&mut self) -> bool {
        // Choices at places that the run did not reach have not been tried.
        self.made.truncate(self.at);
        while let Some((choice, most)) = self.made.pop() {
            if choice + 1 < most {
                self.made.push((choice + 1, most));
                return true;
            }
        }
        false
    }

    fn choose(&mut self, among: usize) -> usize {
        if self.made.len() == self.at {
            self.made.push((0, among));
        }
        let (choice, _) = self.made[self.at];
        self.at += 1;
        choice.min(among.saturating_sub(1))
    }
}

/// The sample values, common ones first. Each exists because some type accepts none before it.
pub(super) mod sample {
    use super::Choices;

    const TEXTS: [&str; 16] = [
        "a",
        "",
        "1",
        "/",
        "127.0.0.1",
        "127.0.0.1:1",
        "::1",
        "[::1]:1",
        "1970-01-01",
        "1970-01-01T00:00:00Z",
        "00:00:00",
        "00000000-0000-0000-0000-000000000000",
        "http://a/",
        "a@b.c",
        "1s",
        "1.0.0",
    ];

    pub(in super::super) fn boolean(choices: &mut Choices) -> bool {
        choices.choose(2) == 1
    }

    pub(in super::super) fn number<N: From<bool>>(choices: &mut Choices) -> N {
        N::from(choices.choose(2) == 0)
    }

    pub(in super::super) fn character(choices: &mut Choices) -> char {
        ['a', '1'][choices.choose(2)]
    }

    pub(in super::super) fn text(choices: &mut Choices) -> &'static str {
        TEXTS[choices.choose(TEXTS.len())]
    }

    pub(in super::super) fn bytes(choices: &mut Choices) -> &'static [u8] {
        &[0; 64][..[0, 1, 4, 8, 12, 16, 20, 32, 64][choices.choose(9)]]
    }
}

/// The error of a run that ended early.
#[derive(Debug)]
pub(super) struct Failed(String);

impl Failed {
    pub(super) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

/// A deserializer that produces one value.
pub(super) struct Producer<'c> {
    choices: &'c mut Choices,
}

impl<'c> Producer<'c> {
    pub(super) fn new(choices: &'c mut Choices) -> Self {
        Self { choices }
    }

    /// A producer of `len` values within this one.
    fn parts(self, len: usize) -> ProducedParts<'c> {
        ProducedParts {
            choices: self.choices,
            left: len,
        }
    }

    /// Produces a value within a struct or an enum. Refuses recursion: a smallest value of a type
    /// never contains a value of the same type.
    fn within<R>(
        self,
        name: &'static str,
        parts: &'static [&'static str],
        produce: impl FnOnce(Producer<'_>) -> Result<R, Failed>,
    ) -> Result<R, Failed> {
        let identity = (name, parts.as_ptr() as usize);
        if self.choices.around.contains(&identity) {
            return Err(Failed::new("the type contains itself without end"));
        }
        self.choices.around.push(identity);
        let depth = self.choices.around.len();
        let produced = produce(Producer::new(&mut *self.choices));
        self.choices.around.truncate(depth - 1);
        produced
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $sample:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            visitor.$visit(sample::$sample(self.choices))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Producer<'_> {
    type Error = Failed;

    leaves! {
        deserialize_bool visit_bool boolean;
        deserialize_i8 visit_i8 number;
        deserialize_i16 visit_i16 number;
        deserialize_i32 visit_i32 number;
        deserialize_i64 visit_i64 number;
        deserialize_i128 visit_i128 number;
        deserialize_u8 visit_u8 number;
        deserialize_u16 visit_u16 number;
        deserialize_u32 visit_u32 number;
        deserialize_u64 visit_u64 number;
        deserialize_u128 visit_u128 number;
        deserialize_f32 visit_f32 number;
        deserialize_f64 visit_f64 number;
        deserialize_char visit_char character;
        deserialize_str visit_str text;
        deserialize_string visit_str text;
        deserialize_bytes visit_bytes bytes;
        deserialize_byte_buf visit_bytes bytes;
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        Err(Failed::new("values of any type"))
    }

    forward_to_deserialize_any! { identifier ignored_any }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        match self.choices.choose(2) {
            0 => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let len = self.choices.choose(2);
        visitor.visit_seq(self.parts(len))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let len = self.choices.choose(2);
        visitor.visit_map(self.parts(len))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_seq(self.parts(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.within(name, fields, |inside| {
            visitor.visit_seq(inside.parts(fields.len()))
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.within(name, variants, |producer| {
            let choice = producer.choices.choose(variants.len());
            let variant = variants.get(choice);
            let name = variant.ok_or_else(|| Failed::new("the enum has no variants"))?;
            visitor.visit_enum(ProducedVariant { name, producer })
        })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

struct ProducedParts<'c> {
    choices: &'c mut Choices,
    left: usize,
}

impl ProducedParts<'_> {
    fn produce<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        seed.deserialize(Producer::new(self.choices))
    }
}

impl<'de> SeqAccess<'de> for ProducedParts<'_> {
    type Error = Failed;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failed> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        self.produce(seed).map(Some)
    }
}

impl<'de> MapAccess<'de> for ProducedParts<'_> {
    type Error = Failed;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failed> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        self.produce(seed)
    }
}

struct ProducedVariant<'c> {
    name: &'static str,
    producer: Producer<'c>,
}

impl<'de, 'c> EnumAccess<'de> for ProducedVariant<'c> {
    type Error = Failed;
    type Variant = Producer<'c>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Producer<'c>), Failed> {
        let name: StrDeserializer<'_, Failed> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.producer))
    }
}

impl<'de> VariantAccess<'de> for Producer<'_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failed> {
        self.parts(1).produce(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_seq(self.parts(len))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_seq(self.parts(fields.len()))
    }
}
