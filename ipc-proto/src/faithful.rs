//! A serializer wrapper that refuses values which their encoding would silently change.
//!
//! It forwards everything to the encoding's own serializer. It checks what only a serializer sees:
//! a skipped field, which postcard would later miss; a number that JSON cannot represent; an option
//! within an option.

use std::cell::Cell;
use std::fmt;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::Encoding;

/// The rules of one encoding, and the first rule that a value broke.
pub(crate) struct Rules {
    encoding: Encoding,
    broken: Cell<Option<Broken>>,
}

/// The rule that a value broke.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Skipped(&'static str),
    NotFinite,
    SomeNone,
}

impl Rules {
    pub(crate) fn of(encoding: Encoding) -> Self {
        Self {
            encoding,
            broken: Cell::new(None),
        }
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.get()
    }

    #[cold]
    fn refuse<E: Error>(&self, broken: Broken) -> E {
        self.broken.set(Some(broken));
        E::custom(broken)
    }

    fn check_number<E: Error>(&self, is_finite: bool) -> Result<(), E> {
        match self.encoding {
            Encoding::Json if !is_finite => Err(self.refuse(Broken::NotFinite)),
            _ => Ok(()),
        }
    }

    fn check_skipped<E: Error>(&self, field: &'static str) -> Result<(), E> {
        match self.encoding {
            Encoding::Postcard => Err(self.refuse(Broken::Skipped(field))),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped(field) => write!(
                f,
                "postcard can't leave out a field, and {field:?} is skipped \
                 (skip_serializing_if): remove that attribute, or create the queue with \
                 Encoding::MessagePack or Encoding::Json"
            ),
            Self::NotFinite => f.write_str(
                "JSON has no form for a number that is infinite or not a number: create the queue \
                 with Encoding::MessagePack or Encoding::Postcard",
            ),
            Self::SomeNone => f.write_str(
                "a None or () within Some would be read as None: use an enum instead, or create \
                 the queue with Encoding::Postcard",
            ),
        }
    }
}

/// A value together with the rules of its encoding.
pub(crate) struct Value<'v, T: ?Sized> {
    value: &'v T,
    rules: &'v Rules,
    in_some: bool,
}

impl<'v, T: ?Sized> Value<'v, T> {
    pub(crate) fn new(value: &'v T, rules: &'v Rules) -> Self {
        Self {
            value,
            rules,
            in_some: false,
        }
    }
}

impl<T: Serialize + ?Sized> Serialize for Value<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Faithful {
            inner,
            rules: self.rules,
            in_some: self.in_some,
        })
    }
}

/// An encoding's serializer together with the rules to check.
struct Faithful<'r, S> {
    inner: S,
    rules: &'r Rules,
    in_some: bool,
}

impl<S: Serializer> Faithful<'_, S> {
    fn check_content(&self) -> Result<(), S::Error> {
        match self.rules.encoding {
            Encoding::Json | Encoding::MessagePack if self.in_some => {
                Err(self.rules.refuse(Broken::SomeNone))
            }
            _ => Ok(()),
        }
    }
}

/// The serializer of a compound value: a sequence, a map, a struct.
struct Compound<'r, C> {
    inner: C,
    rules: &'r Rules,
}

macro_rules! handed_on {
    ($($method:ident($of:ty);)*) => {$(
        #[inline]
        fn $method(self, value: $of) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<'r, S: Serializer> Serializer for Faithful<'r, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'r, S::SerializeSeq>;
    type SerializeTuple = Compound<'r, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'r, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'r, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'r, S::SerializeMap>;
    type SerializeStruct = Compound<'r, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'r, S::SerializeStructVariant>;

    handed_on! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.rules.check_number(value.is_finite())?;
        self.inner.serialize_f32(value)
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        self.rules.check_number(value.is_finite())?;
        self.inner.serialize_f64(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.check_content()?;
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.serialize_some(&Value {
            value,
            rules: self.rules,
            in_some: true,
        })
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.check_content()?;
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.check_content()?;
        self.inner.serialize_unit_struct(name)
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Value {
            value,
            rules: self.rules,
            in_some: self.in_some,
        };
        self.inner.serialize_newtype_struct(name, &value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Value::new(value, self.rules);
        self.inner
            .serialize_newtype_variant(name, index, variant, &value)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let rules = self.rules;
        let inner = self.inner.serialize_seq(len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        let rules = self.rules;
        let inner = self.inner.serialize_tuple(len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let rules = self.rules;
        let inner = self.inner.serialize_tuple_struct(name, len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let rules = self.rules;
        let inner = self
            .inner
            .serialize_tuple_variant(name, index, variant, len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let rules = self.rules;
        let inner = self.inner.serialize_map(len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        let rules = self.rules;
        let inner = self.inner.serialize_struct(name, len)?;
        Ok(Compound { inner, rules })
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let rules = self.rules;
        let inner = self
            .inner
            .serialize_struct_variant(name, index, variant, len)?;
        Ok(Compound { inner, rules })
    }

    /// Forwarded, so that the encoding can write the value without an intermediate `String`.
    #[inline]
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! elements {
    ($($part:ident $method:ident;)*) => {$(
        impl<C: $part> $part for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                self.inner.$method(&Value::new(value, self.rules))
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($part:ident)*) => {$(
        impl<C: $part> $part for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                self.inner.serialize_field(name, &Value::new(value, self.rules))
            }

            #[inline]
            fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.rules.check_skipped(name)?;
                self.inner.skip_field(name)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl<C: SerializeMap> SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        self.inner.serialize_key(&Value::new(key, self.rules))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.inner.serialize_value(&Value::new(value, self.rules))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
