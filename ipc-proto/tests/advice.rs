//! Each test causes an error, follows its advice, and checks that it helps.

use std::fmt::Display;
use std::time::Duration;

use ipc_proto::{
    Backoff, Encoding, HeaderError, Headers, Name, QueueSettings, SettingsError, Shape, codec,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[track_caller]
fn advises(error: impl Display, advice: &str) {
    let text = error.to_string();
    assert!(text.contains(advice), "{advice:?} is not in {text:?}");
}

fn written<T: Serialize>(encoding: Encoding, value: &T) -> Result<Vec<u8>, codec::CodecError> {
    let mut bytes = Vec::new();
    encoding.append(value, &mut bytes).map(|()| bytes)
}

/// Asserts that each of these encodings returns what it was given.
#[track_caller]
fn assert_kept<T>(encodings: &[Encoding], value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let built = |encoding: &&Encoding| encoding.check_available().is_ok();
    for encoding in encodings.iter().filter(built) {
        let bytes = written(*encoding, value).unwrap();
        assert_eq!(&encoding.decode::<T>(&bytes).unwrap(), value);
    }
}

// --- Names and headers ---

#[test]
fn a_refused_name_is_accepted_once_it_has_the_length_and_the_characters_of_the_error() {
    let allowed = "az09._-";
    for (refused, advice, mended) in [
        (
            "",
            "use 1 to 64 characters of a-z 0-9 . _ -",
            allowed.to_owned(),
        ),
        (&"n".repeat(65), "use at most 64", "n".repeat(64)),
        ("Jobs", "use a-z and 0-9", "jobs".to_owned()),
        (
            ".jobs",
            "after the first character also . _ -",
            format!("0{allowed}"),
        ),
    ] {
        advises(Name::new(refused).unwrap_err(), advice);
        Name::new(&mended).unwrap();
    }
}

#[test]
fn refused_headers_are_accepted_once_they_are_as_the_error_says() {
    let mut headers = Headers::new();
    let refused = headers.insert("Content Type", "png").unwrap_err();
    advises(
        refused,
        "use 1 to 64 characters of a-z, 0-9, '.', '_' and '-'",
    );
    headers.insert("content-type_0.9", "png").unwrap();
    headers.insert(&"n".repeat(64), "").unwrap();

    let refused = headers
        .insert("large", vec![0; Headers::MAX_BYTES])
        .unwrap_err();
    advises(refused, "move large values into the payload");
    headers.insert("large", "in the payload").unwrap();

    for number in headers.len()..Headers::MAX_COUNT {
        headers.insert(&format!("h{number}"), "").unwrap();
    }
    let refused = headers.insert("one-more", "").unwrap_err();
    assert_eq!(refused, HeaderError::TooMany);
    advises(refused, "remove some or move them into the payload");
    let fewer = headers.iter().skip(1).chain([("one-more", &b"1"[..])]);
    let fewer: Vec<_> = fewer
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(
        Headers::try_from(fewer).unwrap().get_str("one-more"),
        Some("1")
    );

    let refused = Headers::decode(b"text").unwrap_err();
    advises(refused, "use bytes that Headers::encode returned");
    assert_eq!(Headers::decode(&headers.encode()), Ok(headers));
}

// --- Settings ---

#[test]
fn a_refused_setting_is_accepted_at_both_ends_of_the_range_in_the_error() {
    type Set = fn(&mut QueueSettings, u64);
    let settings: [(u64, Set); 7] = [
        (0, |s, value| s.capacity = value as u32),
        (251, |s, value| s.attempt_limit = value as u8),
        (0, |s, value| s.crash_limit = value as u8),
        (251, |s, value| s.expiry_limit = value as u8),
        (504, |s, value| s.max_participants = value as u16),
        (0, |s, value| s.aging = Duration::from_millis(value)),
        (0, |s, value| {
            s.backoff = Backoff::Fixed(Duration::from_millis(value))
        }),
    ];
    for (refused, set) in settings {
        let mut changed = QueueSettings::default();
        set(&mut changed, refused);
        let error = changed.validate().unwrap_err();
        advises(&error, "use a value from ");
        let SettingsError::OutOfRange { least, most, .. } = error else {
            panic!("{error}")
        };
        for value in [least, most] {
            set(&mut changed, value);
            changed.validate().unwrap();
        }
    }
}

#[test]
fn a_number_of_keys_is_accepted_once_it_is_a_power_of_two() {
    let mut settings = QueueSettings {
        dedup_window: Some(Duration::from_secs(60)),
        dedup_keys: 1000,
        ..QueueSettings::default()
    };
    advises(settings.validate().unwrap_err(), "use a power of two");
    settings.dedup_keys = 1024;
    settings.validate().unwrap();
}

// --- Encodings ---

#[test]
fn an_encoding_is_available_with_the_feature_that_the_error_names() {
    for (encoding, feature, is_built_in) in [
        (Encoding::MessagePack, "msgpack", cfg!(feature = "msgpack")),
        (Encoding::Json, "json", cfg!(feature = "json")),
    ] {
        let available = encoding.check_available();
        assert_eq!(available.is_ok(), is_built_in);
        if let Err(error) = available {
            advises(
                &error,
                &format!("build it with the feature \"{feature}\" of ipc-queue"),
            );
            assert!(written(encoding, &1).is_err());
        } else {
            assert_kept(&[encoding], &1);
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Skipping {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    note: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Whole {
    note: Option<String>,
}

#[test]
fn a_field_that_postcard_cannot_leave_out_is_written_without_the_attribute_or_by_others() {
    let value = Skipping { note: None };
    let refused = written(Encoding::Postcard, &value).unwrap_err();
    advises(&refused, "remove that attribute, or create the queue with");
    assert_kept(&[Encoding::Postcard], &Whole { note: None });
    advises(&refused, "with Encoding::MessagePack or Encoding::Json");
    assert_kept(&[Encoding::MessagePack, Encoding::Json], &value);
}

#[cfg(feature = "json")]
#[test]
fn a_number_without_a_form_in_json_is_written_by_other_encodings() {
    let refused = written(Encoding::Json, &f64::INFINITY).unwrap_err();
    advises(
        refused,
        "create the queue with Encoding::MessagePack or Encoding::Postcard",
    );
    assert_kept(&[Encoding::MessagePack, Encoding::Postcard], &f64::INFINITY);
}

#[cfg(feature = "json")]
#[test]
fn an_absence_within_an_option_is_written_as_an_enum_or_by_postcard() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Width {
        Unknown,
        Known(Option<u8>),
    }
    let value: Option<Option<u8>> = Some(None);
    for encoding in [Encoding::MessagePack, Encoding::Json] {
        if encoding.check_available().is_ok() {
            let refused = written(encoding, &value).unwrap_err();
            advises(
                refused,
                "use an enum instead, or create the queue with Encoding::Postcard",
            );
        }
    }
    assert_kept(
        &[Encoding::MessagePack, Encoding::Json],
        &Width::Known(None),
    );
    assert_kept(&[Encoding::Postcard], &value);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u8),
    Text(String),
}

/// Accepts no value that is tried to find its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Color(String);

impl TryFrom<String> for Color {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match &text[..] {
            "red" | "blue" => Ok(Self(text)),
            _ => Err("not a color"),
        }
    }
}

impl From<Color> for String {
    fn from(color: Color) -> Self {
        color.0
    }
}

#[test]
fn a_type_without_a_shape_is_written_by_the_encodings_that_need_none() {
    const OTHERS: [Encoding; 2] = [Encoding::MessagePack, Encoding::Json];
    let advice = "use Encoding::MessagePack or Encoding::Json";
    let any_type = Shape::of::<Either>().unwrap_err();
    advises(any_type, &format!("a flattened field); {advice}"));
    assert_kept(&OTHERS, &Either::Number(7));
    let untraceable = Shape::of::<(Color, u8)>().unwrap_err();
    advises(untraceable, &format!("not a color); {advice}"));
    assert_kept(&OTHERS, &(Color("red".to_owned()), 1));
}
