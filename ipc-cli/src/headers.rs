//! Message headers as typed and shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Error, Result};
use ipc_proto::{HeaderError, Headers};
use serde_json::{Map, Value, json};

use crate::exit::Exit;
use crate::format;

/// Parses `NAME=VALUE` into the name and the value.
pub fn parse(header: &OsStr) -> Result<(String, Vec<u8>)> {
    let bytes = header.as_bytes();
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
        let text = header.to_string_lossy();
        return Err(Exit::Usage.error(format!(
            "header {text:?} has no '=': write it as NAME=VALUE, such as --header tenant=acme"
        )));
    };
    let name = String::from_utf8_lossy(&bytes[..at]).into_owned();
    Ok((name, bytes[at + 1..].to_vec()))
}

/// The error for a header that no message can have.
pub fn refused(error: HeaderError) -> Error {
    Exit::Usage.error(error.to_string())
}

/// For programs: an object. A value is a string or, if it is not UTF-8, an object with its bytes in
/// hexadecimal.
pub fn json(headers: &Headers) -> Value {
    let shown = |value: &[u8]| match std::str::from_utf8(value) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": format::hex(value) }),
    };
    let pairs = headers.iter();
    let object: Map<_, _> = pairs
        .map(|(name, value)| (name.to_owned(), shown(value)))
        .collect();
    Value::Object(object)
}

/// For people, on one line: `tenant=acme trace=00-4bf9…`.
pub fn in_a_line(headers: &Headers) -> String {
    let pairs = headers.iter();
    let pairs: Vec<_> = pairs
        .map(|(name, value)| format!("{name}={}", format::excerpt(value)))
        .collect();
    pairs.join(" ")
}

/// For people, one per line, each with `label` before it.
pub fn in_lines(headers: &Headers, label: &str) -> String {
    let pairs = headers.iter();
    pairs
        .map(|(name, value)| {
            // Whatever the value contains, it stays on one line.
            let value = format::payload(value).replace(['\n', '\r'], " ");
            format!("{label}{name}={value}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_have_any_bytes_and_the_first_equals_sign_ends_the_name() {
        let header = OsStr::from_bytes(b"trace=a=b\xff");
        let parsed = parse(header).unwrap();
        assert_eq!(parsed, ("trace".to_owned(), b"a=b\xff".to_vec()));
        assert!(parse(OsStr::new("trace")).is_err());
    }

    #[test]
    fn headers_are_shown_as_text_or_else_hexadecimal() {
        let mut headers = Headers::new();
        headers.insert("tenant", "acme").unwrap();
        headers.insert("raw", [0xff, 0x01]).unwrap();
        headers.insert("lines", "a\nb").unwrap();
        let shown = json(&headers);
        assert_eq!(
            shown,
            json!({ "tenant": "acme", "raw": { "hex": "ff01" }, "lines": "a\nb" })
        );
        assert_eq!(in_a_line(&headers), "tenant=acme raw=ff01 lines=a b");
        let lines = in_lines(&headers, "header  ");
        assert_eq!(lines.lines().count(), 3, "{lines}");
    }
}
