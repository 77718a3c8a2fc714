//! A message as a line of JSON.
//!
//! `recv --json`, `peek --json`, `tail --json` and `export` print such lines, and `send --json` and
//! `import` read them.

use anyhow::{Context, Result, bail, ensure};
use ipc_proto::{Headers, Kind};
use ipc_queue::{Priority, SendOptions};
use serde_json::Value;

/// A message to be sent.
#[derive(Debug)]
pub struct Object {
    pub payload: Given,
    pub options: SendOptions,
}

/// A payload as given in the object.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    /// Sent unchanged.
    Bytes(Vec<u8>),
    /// Encoded for the queue's type.
    Text(String),
}

impl Object {
    /// Reads a line. Missing fields are taken from `options`. Unknown fields are ignored: they
    /// describe the exported message.
    pub fn parse(line: &[u8], options: &SendOptions, has_priorities: bool) -> Result<Self> {
        let value: Value = serde_json::from_slice(line).context("this is not JSON")?;
        let object = value.as_object().context("this is not an object")?;
        let payload = object.get("payload").context("there is no \"payload\"")?;
        let mut options = options.clone();
        if let Some(headers) = object.get("headers").filter(|value| !value.is_null()) {
            options = options.headers(read_headers(headers)?);
        }
        if let Some(kind) = text_of(object.get("kind"), "kind")? {
            options = options.kind(read_kind(kind)?);
        }
        if let Some(priority) = text_of(object.get("priority"), "priority")? {
            let priority = read_priority(priority)?;
            // A queue without priorities has only the normal one, which export also prints.
            if has_priorities || priority != Priority::Normal {
                options = options.priority(priority);
            }
        }
        if let Some(key) = text_of(object.get("key"), "key")? {
            ensure!(!key.is_empty(), "\"key\" is empty");
            options = options.key(key);
        }
        Ok(Self {
            payload: read_payload(payload)?,
            options,
        })
    }
}

fn read_payload(payload: &Value) -> Result<Given> {
    if let Value::String(text) = payload {
        return Ok(Given::Text(text.clone()));
    }
    if let Some(hex) = text_of(payload.get("hex"), "hex")? {
        return Ok(Given::Bytes(unhex(hex)?));
    }
    if let Some(text) = text_of(payload.get("text"), "text")? {
        return Ok(Given::Text(text.to_owned()));
    }
    bail!("\"payload\" is neither a text nor an object with \"hex\" or \"text\"")
}

fn read_headers(headers: &Value) -> Result<Headers> {
    let mut read = Headers::new();
    let headers = headers
        .as_object()
        .context("\"headers\" is not an object")?;
    for (name, value) in headers {
        let bytes = match (value, value.get("hex")) {
            (Value::String(text), _) => text.clone().into_bytes(),
            (_, Some(Value::String(hex))) => unhex(hex)?,
            _ => bail!("header {name:?} is neither a text nor an object with \"hex\""),
        };
        read.insert(name, bytes)?;
    }
    Ok(read)
}

fn read_kind(kind: &str) -> Result<Kind> {
    Ok(match &kind.to_ascii_lowercase()[..] {
        "data" => Kind::Data,
        "control" => Kind::Control,
        "heartbeat" => Kind::Heartbeat,
        "shutdown" => Kind::Shutdown,
        _ => bail!("{kind:?} is not a kind: Data, Control, Heartbeat or Shutdown"),
    })
}

fn read_priority(priority: &str) -> Result<Priority> {
    Ok(match priority {
        "low" => Priority::Low,
        "normal" => Priority::Normal,
        "high" => Priority::High,
        "urgent" => Priority::Urgent,
        _ => bail!("{priority:?} is not a priority: low, normal, high or urgent"),
    })
}

/// Returns the field as text, if it is present and not null.
fn text_of<'v>(value: Option<&'v Value>, name: &str) -> Result<Option<&'v str>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => bail!("{name:?} is not a text"),
    }
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    let bytes: Option<_> = bytes.collect();
    bytes.with_context(|| format!("{text:?} is not hexadecimal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Object> {
        Object::parse(line.as_bytes(), &SendOptions::new(), false)
    }

    #[test]
    fn bytes_precede_text_and_a_plain_string_suffices() {
        let payload = |line: &str| parse(line).unwrap().payload;
        let both =
            payload(r#"{"payload": {"text": "a", "hex": "00ff", "bytes": 2}, "attempt": 3}"#);
        assert_eq!(both, Given::Bytes(vec![0, 255]));
        assert_eq!(payload(r#"{"payload": "a"}"#), Given::Text("a".to_owned()));
        assert_eq!(
            payload(r#"{"payload": {"text": "a"}}"#),
            Given::Text("a".to_owned())
        );
    }

    #[test]
    fn errors_in_a_line_are_named() {
        for (line, wrong) in [
            ("resize", "not JSON"),
            ("[1]", "not an object"),
            ("{}", "no \"payload\""),
            (r#"{"payload": {"hex": "0"}}"#, "not hexadecimal"),
            (r#"{"payload": "a", "kind": "job"}"#, "not a kind"),
            (r#"{"payload": "a", "priority": 1}"#, "not a text"),
            (r#"{"payload": "a", "headers": {"x": 1}}"#, "header \"x\""),
            (r#"{"payload": "a", "key": ""}"#, "empty"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
