//! Values as text for people: durations, sizes and payloads.

use std::time::{Duration, SystemTime};

use ipc_proto::Timestamp;
use serde_json::{Value, json};

/// Formats a duration in at most two units.
pub fn time(time: Duration) -> String {
    let rounded = match time {
        time if time < Duration::from_millis(1) => Duration::from_micros(time.as_micros() as u64),
        time if time < Duration::from_secs(10) => Duration::from_millis(time.as_millis() as u64),
        time => Duration::from_secs(time.as_secs()),
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the time since `at`.
pub fn age(at: Timestamp) -> Duration {
    let now = Timestamp::from(SystemTime::now()).as_nanos();
    Duration::from_nanos(now.saturating_sub(at.as_nanos()))
}

/// Formats a number of bytes in a suitable unit.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Shortens a name to `room` characters. Its beginning and its end are kept, because names differ
/// there.
pub fn shortened(name: &str, room: usize) -> String {
    let chars: Vec<_> = name.chars().collect();
    if chars.len() <= room {
        return name.to_owned();
    }
    let kept = room.saturating_sub(1);
    let (head, tail) = (kept.div_ceil(2), kept / 2);
    let ends = chars[..head].iter().chain(&['…']);
    ends.chain(&chars[chars.len() - tail..]).collect()
}

/// A payload for people: its text if it is one, else its bytes in hexadecimal.
pub fn payload(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.to_owned(),
        _ => hex(bytes),
    }
}

/// The beginning of a payload, on one line.
pub fn excerpt(bytes: &[u8]) -> String {
    const CHARS: usize = 60;
    let head = &bytes[..bytes.len().min(4 * CHARS)];
    let head = match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        _ => head,
    };
    let text: String = payload(head)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if head.len() < bytes.len() => format!("{text}…"),
        None => text,
    }
}

/// A payload for programs: its text if it is one, and its bytes always.
pub fn payload_json(bytes: &[u8]) -> Value {
    json!({ "text": std::str::from_utf8(bytes).ok(), "hex": hex(bytes), "bytes": bytes.len() })
}

/// Formats bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_text_or_hexadecimal_and_short() {
        assert_eq!(payload(b"resize a.png\n"), "resize a.png\n");
        assert_eq!(payload(b"\x01\xff"), "01ff");
        assert_eq!(excerpt(b"two\nlines"), "two lines");
        let long = "é".repeat(1000);
        let short = excerpt(long.as_bytes());
        assert_eq!((short.chars().count(), short.ends_with('…')), (61, true));
    }

    #[test]
    fn sizes_and_times_are_rounded_to_be_readable() {
        assert_eq!(
            (bytes(1023), bytes(1536)),
            ("1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(time(Duration::from_nanos(1_234_567)), "1ms");
        assert_eq!(time(Duration::from_secs(3_723)), "1h 2m");
    }

    #[test]
    fn names_are_shortened_in_the_middle() {
        assert_eq!(shortened("media/resize", 12), "media/resize");
        assert_eq!(shortened("media/thumbnails-v2", 10), "media…s-v2");
        assert_eq!(shortened("abc", 0), "…");
    }
}
