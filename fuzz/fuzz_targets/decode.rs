//! Any bytes decode to a value or an error, and every value survives a round trip through bytes.
#![no_main]

use std::fmt::Debug;

use ipc_proto::{Message, Name, QueueSettings, codec};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|bytes: &[u8]| {
    check::<Message<Vec<u8>>>(bytes);
    check::<Message<String>>(bytes);
    check::<Message<(u64, Option<Vec<(String, i32)>>)>>(bytes);
    check::<Vec<Message<()>>>(bytes);
    check::<Name>(bytes);
    if let Some(settings) = check::<QueueSettings>(bytes) {
        let _ = settings.validate();
    }
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(name) = Name::new(text)
    {
        assert_eq!(name.as_str(), text);
    }
});

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    if let Ok((first, rest)) = codec::decode_prefix::<T>(bytes) {
        assert!(rest.len() < bytes.len(), "nothing was read of {first:?}");
    }
    let value = codec::decode::<T>(bytes).ok()?;
    let encoded = codec::encode(&value).expect("what was decoded can be encoded");
    // The bytes may differ, because a number also has longer forms.
    assert!(encoded.len() <= bytes.len(), "{value:?}");
    assert_eq!(codec::decode::<T>(&encoded).as_ref(), Ok(&value));
    Some(value)
}
