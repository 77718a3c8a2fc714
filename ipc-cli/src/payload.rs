//! Payloads of typed queues: encodes typed text in the queue's encoding, and makes payload bytes
//! readable.

use std::borrow::Cow;

use anyhow::{Context, Result};
use ipc_queue::{Encoding, PayloadName};
use serde_json::Value;
use serde_transcode::Transcoder;

use crate::exit::Exit;
use crate::format;

/// The payload type of a queue.
pub struct Payloads(PayloadName);

/// Returns a queue's type on one line.
pub fn short(name: &str) -> String {
    match name {
        "" => "bytes".to_owned(),
        name => parsed(name).short(),
    }
}

fn parsed(name: &str) -> PayloadName {
    let Ok(name) = name.parse();
    name
}

impl Payloads {
    /// Creates it from the payload name of a queue; `None` means unknown, and so bytes.
    pub fn of(name: Option<&str>) -> Self {
        Self(parsed(name.unwrap_or_default()))
    }

    /// Returns `true` if payloads are texts, which are typed and shown unchanged.
    fn are_texts(&self) -> bool {
        self.0.type_name == "String"
    }

    /// Encodes `text` as typed: as a string if the queue carries `String`, else from JSON.
    pub fn encode<'t>(&self, queue: &str, text: &'t [u8]) -> Result<Cow<'t, [u8]>> {
        let Some(encoding) = self.0.encoding else {
            if self.0.type_name.is_empty() {
                return Ok(Cow::Borrowed(text));
            }
            return Err(Exit::Refused.error(format!(
                "{queue} carries {}, in a form that only its programs know: --raw sends the \
                 bytes as they are",
                self.0.short()
            )));
        };
        let mut bytes = Vec::new();
        if self.are_texts() {
            let text = std::str::from_utf8(text);
            let text = text.context("the queue carries String, and this is not UTF-8")?;
            encoding.append(text, &mut bytes)?;
        } else if encoding.is_self_describing() {
            let carries = || format!("{queue} carries {}, and this is not JSON", self.0.short());
            let value: Value = serde_json::from_slice(text).with_context(carries)?;
            encoding.append(&value, &mut bytes)?;
        } else {
            return Err(Exit::Refused.error(format!(
                "{queue} carries {}, which only a program with that type can encode: send with \
                 such a program, or create the queue with Encoding::MessagePack or \
                 Encoding::Json, into which ipc send puts JSON",
                self.0.short()
            )));
        }
        Ok(Cow::Owned(bytes))
    }

    /// Returns a payload as text or JSON; `None` if it can't be read without its type.
    fn text(&self, payload: &[u8]) -> Option<String> {
        let encoding = self.0.encoding.filter(|_| !payload.is_empty())?;
        if self.are_texts() {
            return encoding.decode(payload).ok();
        }
        match encoding {
            Encoding::Json => String::from_utf8(payload.to_owned()).ok(),
            Encoding::MessagePack => {
                let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
                serde_json::to_string(&Transcoder::new(&mut reader)).ok()
            }
            _ => None,
        }
    }

    /// Returns a payload as text if it can be read, else unchanged.
    pub fn readable<'p>(&self, payload: &'p [u8]) -> Cow<'p, [u8]> {
        let text = self.text(payload);
        text.map_or(Cow::Borrowed(payload), |text| Cow::Owned(text.into_bytes()))
    }

    /// A payload for people.
    pub fn in_words(&self, payload: &[u8]) -> String {
        let text = format::payload(&self.readable(payload));
        let shape = self.0.shape.as_ref().and_then(|shape| shape.text.as_ref());
        match (self.text(payload), shape) {
            (None, Some(shape)) => format!("{}\n\nshape         {shape}", format::hex(payload)),
            _ => text,
        }
    }

    /// The beginning of a payload, on one line.
    pub fn excerpt(&self, payload: &[u8]) -> String {
        let is_readable = self.0.encoding != Some(Encoding::Postcard) || self.are_texts();
        if is_readable {
            return format::excerpt(&self.readable(payload));
        }
        format::excerpt(format::hex(payload).as_bytes())
    }

    /// A payload for programs: its bytes, its text if it is one, and its value if it can be read.
    pub fn json(&self, payload: &[u8]) -> Value {
        let mut shown = format::payload_json(payload);
        if let Some(text) = self.text(payload) {
            let value = match self.are_texts() {
                true => Value::String(text.clone()),
                false => serde_json::from_str(&text).unwrap_or(Value::Null),
            };
            shown["text"] = Value::String(text);
            shown["value"] = value;
        }
        shown
    }
}
