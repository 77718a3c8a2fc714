//! Maps the name of a setting in an error to the option that sets it.

use ipc_queue::Feature;

/// The settings of a queue and the options of `ipc create` that set them.
pub const SETTINGS: [(&str, &str); 14] = [
    ("capacity", "--capacity"),
    ("inline_bytes", "--inline-bytes"),
    ("max_message_bytes", "--max-message-bytes"),
    ("pool_bytes", "--pool-bytes"),
    ("attempt_limit", "--attempt-limit"),
    ("crash_limit", "--crash-limit"),
    ("expiry_limit", "--expiry-limit"),
    ("backoff", "--backoff"),
    ("lease", "--lease"),
    ("max_participants", "--max-participants"),
    ("priorities", "--priorities"),
    ("aging", "--aging"),
    ("dedup_window", "--dedup-window"),
    ("dedup_keys", "--dedup-keys"),
];

/// Returns `line` followed by the options of `ipc create` for the settings that it names and for
/// the feature that the queue lacks.
#[must_use]
pub fn with_options(line: &str, lacking: Option<Feature>) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: Vec<_> = line.split(|c| !is_word(c)).collect();
    let lacking = match lacking {
        Some(Feature::Priorities) => Some("priorities"),
        Some(Feature::Deduplication) => Some("dedup_window"),
        _ => None,
    };
    let is_named = |setting| match lacking {
        Some(lacking) => setting == lacking,
        // Everyday words count as settings only where an error mentions settings.
        None => words.contains(&setting) && (setting.contains('_') || line.contains("setting")),
    };
    let named = SETTINGS.iter().filter(|(setting, _)| is_named(setting));
    let options: Vec<_> = named.map(|(_, option)| *option).collect();
    if options.is_empty() || options.iter().any(|option| line.contains(option)) {
        return line.to_owned();
    }
    format!("{line} (ipc create QUEUE {})", options.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_setting_is_shown_with_its_option() {
        let line = "no place: create the queue with more dedup_keys or a shorter dedup_window";
        let told = with_options(line, None);
        assert!(
            told.ends_with("(ipc create QUEUE --dedup-window --dedup-keys)"),
            "{told}"
        );
        let silent = "there is no queue \"release\"";
        assert_eq!(with_options(silent, None), silent);
        let told = with_options("priorities: see QueueOptions", Some(Feature::Priorities));
        assert!(told.ends_with("(ipc create QUEUE --priorities)"), "{told}");
        let said = "capacity is 4: ipc create NEW --capacity 8";
        assert_eq!(with_options(said, None), said);
    }

    #[test]
    fn every_setting_of_a_queue_has_its_option() {
        let settings = serde_json::to_value(ipc_proto::QueueSettings::default()).unwrap();
        let mut fields: Vec<_> = settings.as_object().unwrap().keys().cloned().collect();
        let mut known: Vec<_> = SETTINGS
            .iter()
            .map(|(setting, _)| (*setting).to_owned())
            .collect();
        fields.sort_unstable();
        known.sort_unstable();
        assert_eq!(fields, known);
    }
}
