use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::Name;

fn of<T: DeserializeOwned>() -> String {
    Shape::of::<T>()
        .unwrap_or_else(|error| panic!("{error}"))
        .to_string()
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
struct Job {
    id: u64,
    #[serde(rename = "file name")]
    file: String,
    what: What,
    tags: HashSet<String>,
    limit: Option<Duration>,
    #[serde(skip)]
    cached: u8,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
enum What {
    Stop,
    Resize { width: u32, height: u32 },
    Move(String, NonZeroU32),
    Label(Name),
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
struct Tree {
    value: i32,
    children: Vec<Tree>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only its shape is used")]
enum Sum {
    Plus(Box<Sum>, Box<Sum>),
    Number(f64),
}

#[test]
fn a_shape_lists_fields_variants_order_and_nesting() {
    assert_eq!(of::<u8>(), "u8");
    assert_eq!(of::<()>(), "()");
    assert_eq!(of::<[u8; 32]>(), "(u8; 32)");
    assert_eq!(of::<HashMap<u8, Vec<bool>>>(), "map<u8, [bool]>");
    assert_eq!(
        of::<Job>(),
        "{id: u64, \"file name\": str, what: enum{Stop, Resize: {width: u32, height: u32}, \
         Move: (str, u32), Label: str}, tags: [str], limit: option<{secs: u64, nanos: u32}>}"
    );
    assert_eq!(of::<IpAddr>(), "enum{V4: (u8; 4), V6: (u8; 16)}");
    assert_eq!(of::<Result<u8, char>>(), "enum{Ok: u8, Err: char}");
}

#[test]
fn a_recursive_type_has_a_finite_shape() {
    assert_eq!(of::<Tree>(), "{value: i32, children: [^1]}");
    assert_eq!(of::<Sum>(), "enum{Plus: (^1, ^1), Number: f64}");
    assert_eq!(of::<(Sum, u8)>(), "(enum{Plus: (^1, ^1), Number: f64}, u8)");
    assert_eq!(of::<(Tree, u8)>(), "({value: i32, children: [^1]}, u8)");
}

#[test]
fn the_shape_after_a_value_that_refuses_samples_is_found() {
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct Version;
    impl TryFrom<String> for Version {
        type Error = String;
        fn try_from(text: String) -> Result<Self, String> {
            match text.split('.').count() {
                3 => Ok(Self),
                _ => Err(format!("{text:?} is not a version")),
            }
        }
    }
    assert_eq!(of::<(Version, u8)>(), "(str, u8)");
    assert_eq!(of::<BTreeMap<NonZeroU32, Name>>(), "map<u32, str>");

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Never;
    impl TryFrom<String> for Never {
        type Error = &'static str;
        fn try_from(_: String) -> Result<Self, &'static str> {
            Err("never")
        }
    }
    // The refused value does not matter here: no unknown part follows it.
    assert_eq!(of::<Vec<Never>>(), "[str]");
    let error = Shape::of::<(Never, u8)>().unwrap_err();
    assert!(
        matches!(&error, ShapeError::Untraceable { reason, .. } if reason == "never"),
        "{error}"
    );
}

#[test]
fn a_type_that_accepts_anything_is_refused_with_its_place() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u8),
        Text(String),
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its shape is used")]
    struct Outer {
        id: u8,
        either: Option<Either>,
    }
    let error = Shape::of::<Outer>().unwrap_err();
    assert!(
        matches!(&error, ShapeError::AnyType { at, .. } if at == "its part either"),
        "{error}"
    );
    assert!(
        error.to_string().contains("Encoding::MessagePack"),
        "{error}"
    );
}

#[test]
fn a_field_that_moved_changes_the_fingerprint() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is used")]
    struct Before {
        from: String,
        to: String,
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape is used")]
    struct After {
        to: String,
        from: String,
    }
    let (before, after) = (
        Shape::of::<Before>().unwrap(),
        Shape::of::<After>().unwrap(),
    );
    assert_ne!(before.fingerprint(), after.fingerprint());
}
