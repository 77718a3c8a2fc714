//! A deserializer that records what a type requests.

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::producer::{Choices, Failed, Producer, sample};
use super::{Node, ShapeError, UNIT};

/// The state shared by all runs.
#[derive(Default)]
struct State {
    choices: Choices,
    /// `true` if this run recorded something new.
    progressed: bool,
    /// The enclosing structs and enums: the name of each, and the address of its list of field or
    /// variant names.
    around: Vec<(&'static str, usize)>,
    /// The path to the present place. After a failure, the path to the place that failed.
    path: Vec<String>,
    reads_any: bool,
}

/// Finds the shape of `T`.
pub(super) fn trace<T: DeserializeOwned>() -> Result<Node, ShapeError> {
    /// Far more runs than any traceable type needs.
    const MOST_RUNS: usize = 100_000;
    let mut root = Node::Unknown;
    let mut state = State::default();
    let mut reason = "there are too many sample values to try".to_owned();
    for _ in 0..MOST_RUNS {
        state.choices.rewind();
        (state.progressed, state.reads_any) = (false, false);
        state.around.clear();
        state.path.clear();
        let run = T::deserialize(Tracer {
            node: &mut root,
            state: &mut state,
        });
        if state.reads_any {
            let (wanted, at) = (std::any::type_name::<T>(), place(&state.path));
            return Err(ShapeError::AnyType { wanted, at });
        }
        if root.is_complete() {
            return Ok(root);
        }
        if let Err(error) = run {
            reason = error.to_string();
        }
        // No progress means that a sample before the next unknown place was refused, so try another
        // sample.
        if state.progressed {
            state.choices.clear();
        } else if !state.choices.advance() {
            break;
        }
    }
    Err(ShapeError::Untraceable {
        wanted: std::any::type_name::<T>(),
        at: place(&state.path),
        reason,
    })
}

fn place(path: &[String]) -> String {
    match path {
        [] => "the type itself".to_owned(),
        path => format!("its part {}", path.join(".")),
    }
}

/// A deserializer for one place of the type.
struct Tracer<'t> {
    node: &'t mut Node,
    state: &'t mut State,
}

impl<'t> Tracer<'t> {
    fn note(&mut self, found: impl FnOnce() -> Node) {
        if *self.node == Node::Unknown {
            *self.node = found();
            self.state.progressed = true;
        }
    }

    /// Continues at a part of this place. After a failure `name` stays in the path.
    fn part<R>(
        node: &mut Node,
        state: &mut State,
        name: &str,
        go: impl FnOnce(Tracer<'_>) -> Result<R, Failed>,
    ) -> Result<R, Failed> {
        state.path.push(name.to_owned());
        let depth = state.path.len();
        let done = go(Tracer { node, state })?;
        state.path.truncate(depth - 1);
        Ok(done)
    }

    fn producer(self) -> Producer<'t> {
        Producer::new(&mut self.state.choices)
    }

    /// Enters a struct or an enum, unless that is one of the enclosing ones.
    fn enter(
        &mut self,
        name: &'static str,
        parts: &'static [&'static str],
        empty: fn(Vec<(&'static str, Node)>) -> Node,
    ) -> Result<(), Failed> {
        let identity = (name, parts.as_ptr() as usize);
        let outer = self.state.around.iter().rev();
        if let Some(levels) = outer.clone().position(|one| *one == identity) {
            self.note(|| Node::Outer(levels + 1));
            return Err(Failed::new("the type contains itself"));
        }
        self.state.around.push(identity);
        self.note(|| empty(parts.iter().map(|part| (*part, Node::Unknown)).collect()));
        Ok(())
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $name:literal $sample:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
            self.note(|| Node::Leaf($name));
            visitor.$visit(sample::$sample(&mut self.state.choices))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Tracer<'_> {
    type Error = Failed;

    leaves! {
        deserialize_bool visit_bool "bool" boolean;
        deserialize_i8 visit_i8 "i8" number;
        deserialize_i16 visit_i16 "i16" number;
        deserialize_i32 visit_i32 "i32" number;
        deserialize_i64 visit_i64 "i64" number;
        deserialize_i128 visit_i128 "i128" number;
        deserialize_u8 visit_u8 "u8" number;
        deserialize_u16 visit_u16 "u16" number;
        deserialize_u32 visit_u32 "u32" number;
        deserialize_u64 visit_u64 "u64" number;
        deserialize_u128 visit_u128 "u128" number;
        deserialize_f32 visit_f32 "f32" number;
        deserialize_f64 visit_f64 "f64" number;
        deserialize_char visit_char "char" character;
        deserialize_str visit_str "str" text;
        deserialize_string visit_str "str" text;
        deserialize_bytes visit_bytes "bytes" bytes;
        deserialize_byte_buf visit_bytes "bytes" bytes;
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        self.state.reads_any = true;
        Err(Failed::new("it accepts values of any type"))
    }

    forward_to_deserialize_any! { identifier ignored_any }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
        self.note(|| UNIT);
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.deserialize_unit(visitor)
    }

    /// A newtype has the shape of its content, as in the encoding.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
        self.note(|| Node::Option(Node::unknown_box()));
        match self.node {
            Node::Option(inner) if !inner.is_complete() => visitor.visit_some(Tracer {
                node: inner,
                state: self.state,
            }),
            _ => self.producer().deserialize_option(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
        self.note(|| Node::Seq(Node::unknown_box()));
        match self.node {
            Node::Seq(element) if !element.is_complete() => visitor.visit_seq(Elements {
                nodes: std::slice::from_mut(&mut **element),
                next: 0,
                state: self.state,
            }),
            _ => self.producer().deserialize_seq(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
        self.note(|| Node::Map(Node::unknown_box(), Node::unknown_box()));
        match self.node {
            Node::Map(key, value) if !(key.is_complete() && value.is_complete()) => visitor
                .visit_map(Entry {
                    key,
                    value,
                    given: false,
                    state: self.state,
                }),
            _ => self.producer().deserialize_map(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        mut self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.note(|| Node::Tuple(vec![Node::Unknown; len]));
        let is_complete = self.node.is_complete();
        match self.node {
            Node::Tuple(nodes) if !is_complete => visitor.visit_seq(Elements {
                nodes,
                next: 0,
                state: self.state,
            }),
            _ => self.producer().deserialize_tuple(len, visitor),
        }
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
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        if self.node.is_complete() {
            return self.producer().deserialize_struct(name, fields, visitor);
        }
        self.enter(name, fields, Node::Struct)?;
        let depth = self.state.around.len();
        let value = fields_of(self.node, fields, self.state, visitor)?;
        self.state.around.truncate(depth - 1);
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        if self.node.is_complete() {
            return self.producer().deserialize_enum(name, variants, visitor);
        }
        self.enter(name, variants, Node::Enum)?;
        let depth = self.state.around.len();
        let Node::Enum(known) = self.node else {
            return Err(Failed::new("it reads its content in more than one way"));
        };
        let unknown = known.iter_mut().find(|(_, node)| !node.is_complete());
        let Some((variant, node)) = unknown else {
            return Err(Failed::new("the enum has no variants"));
        };
        let state = &mut *self.state;
        state.path.push((*variant).to_owned());
        let path = state.path.len();
        let value = visitor.visit_enum(TracedVariant {
            name: variant,
            node,
            state,
        })?;
        self.state.path.truncate(path - 1);
        self.state.around.truncate(depth - 1);
        Ok(value)
    }

    /// The same answer as postcard gives.
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Visits fields by name, so a failed field does not hide the others.
fn fields_of<'de, V: Visitor<'de>>(
    node: &mut Node,
    fields: &'static [&'static str],
    state: &mut State,
    visitor: V,
) -> Result<V::Value, Failed> {
    if *node == Node::Unknown {
        *node = Node::Struct(fields.iter().map(|name| (*name, Node::Unknown)).collect());
        state.progressed = true;
    }
    match node {
        Node::Struct(fields) => visitor.visit_map(Fields {
            fields,
            next: 0,
            state,
        }),
        _ => Err(Failed::new("it reads its content in more than one way")),
    }
}

/// The elements of a sequence or a tuple.
struct Elements<'t> {
    nodes: &'t mut [Node],
    next: usize,
    state: &'t mut State,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Failed;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failed> {
        let index = self.next;
        let Some(node) = self.nodes.get_mut(index) else {
            return Ok(None);
        };
        self.next += 1;
        if node.is_complete() {
            return seed
                .deserialize(Producer::new(&mut self.state.choices))
                .map(Some);
        }
        let name = index.to_string();
        Tracer::part(node, self.state, &name, |at| seed.deserialize(at)).map(Some)
    }
}

/// The incompletely known fields of a struct. Known fields are left out.
struct Fields<'t> {
    fields: &'t mut [(&'static str, Node)],
    next: usize,
    state: &'t mut State,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Failed;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failed> {
        let rest = &self.fields[self.next..];
        let Some(ahead) = rest.iter().position(|(_, node)| !node.is_complete()) else {
            return Ok(None);
        };
        self.next += ahead;
        let name: StrDeserializer<'_, Failed> = self.fields[self.next].0.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        let (name, node) = &mut self.fields[self.next];
        self.next += 1;
        Tracer::part(node, self.state, name, |at| seed.deserialize(at))
    }
}

/// One entry of a map.
struct Entry<'t> {
    key: &'t mut Node,
    value: &'t mut Node,
    given: bool,
    state: &'t mut State,
}

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = Failed;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failed> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        if self.key.is_complete() {
            return seed
                .deserialize(Producer::new(&mut self.state.choices))
                .map(Some);
        }
        Tracer::part(self.key, self.state, "key", |at| seed.deserialize(at)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failed> {
        if self.value.is_complete() {
            return seed.deserialize(Producer::new(&mut self.state.choices));
        }
        Tracer::part(self.value, self.state, "value", |at| seed.deserialize(at))
    }
}

/// One variant of an enum.
struct TracedVariant<'t> {
    name: &'static str,
    node: &'t mut Node,
    state: &'t mut State,
}

impl<'de> EnumAccess<'de> for TracedVariant<'_> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Failed> {
        let name: StrDeserializer<'_, Failed> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for TracedVariant<'_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        *self.node = UNIT;
        self.state.progressed = true;
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failed> {
        seed.deserialize(Tracer {
            node: self.node,
            state: self.state,
        })
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failed> {
        de::Deserializer::deserialize_tuple(
            Tracer {
                node: self.node,
                state: self.state,
            },
            len,
            visitor,
        )
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        fields_of(self.node, fields, self.state, visitor)
    }
}
