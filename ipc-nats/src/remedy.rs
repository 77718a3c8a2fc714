//! What to do about a server that keeps nothing: it runs without JetStream, this account may not
//! use it, its cluster has no leader or too few servers.

use std::fmt::Display;

/// Returns a text about an error of JetStream, with what to do about it, if that is known.
pub(crate) fn with_remedy(what: &str, error: &dyn Display) -> String {
    let error = error.to_string();
    match remedy(&error) {
        Some(remedy) => format!("{what}: {error}; {remedy}"),
        None => format!("{what}: {error}"),
    }
}

/// The server's words for an error are the same in all versions, and in all answers.
fn remedy(error: &str) -> Option<&'static str> {
    let known: [(&[&str], _); 4] = [
        (
            &["not enabled for account"],
            "put jetstream: enabled into the account's configuration",
        ),
        (
            &["temporarily unavailable"],
            "wait until its cluster has a leader",
        ),
        (
            &["jetstream unavailable", "no responders", "not enabled"],
            "start it with -js, or wait until its cluster has a leader",
        ),
        (
            &["replicas > 1 not supported"],
            "use replicas=1, or start it in a cluster",
        ),
    ];
    let mut known = known.into_iter();
    let found = known.find(|(signs, _)| signs.iter().any(|sign| error.contains(sign)));
    found.map(|(_, remedy)| remedy)
}
