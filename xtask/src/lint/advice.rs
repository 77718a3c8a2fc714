//! Checks that a test does what each text of the product recommends.
//!
//! Wrong advice is worse than none. The check finds strings that read like advice, by the verbs
//! that advice begins with. For each, `xtask/advice.toml` names the test that causes the error,
//! follows the advice, and sees that it helps. Texts that only read like advice are also listed
//! there.
//!
//! Does not run the tests, and can't know whether they follow the text. Does not find advice that
//! begins with none of [`VERBS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use xtask::cargo;

use super::{rust_files, without_tests};

mod python;

const LIST: &str = "xtask/advice.toml";

/// The crates whose texts users read.
const PRODUCT: [&str; 7] = [
    "ipc-proto",
    "ipc-shm",
    "ipc-queue",
    "ipc-nats",
    "ipc-node",
    "ipc-cli",
    "ipc-python",
];

/// Code for tests only, which is not in a module `tests`.
const FOR_TESTS: [&str; 3] = [
    "ipc-queue/src/conformance",
    "ipc-queue/src/shm/model",
    "ipc-nats/src/testing",
];

/// The words that a clause of advice begins with.
const VERBS: &str = "accept add allow ask build call change check choose close continue create \
                     delete drop end enlarge find forget free get give have keep leave let listen \
                     log look lower make map mount move name open pass put raise read receive \
                     redirect reduce register remove reopen restart restore run save say see send \
                     serve set split start stop take try use wait write";

/// What else advice has: a command, an option, a condition.
const SIGNS: [&str; 4] = [" ipc ", "(ipc ", ": --", " must "];

/// The content of `xtask/advice.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// For each file with tests: each test's name, and a part of each text that the test follows.
    covered: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Parts of texts that only read like advice.
    not_advice: Vec<String>,
    /// Parts of advice that no test can follow, each with the reason.
    #[serde(default)]
    untested: BTreeMap<String, String>,
}

/// A string of the product that reads like advice.
#[derive(Debug)]
struct Advice {
    place: String,
    text: String,
}

pub(super) fn check() -> Result<()> {
    let list = std::fs::read_to_string(cargo::root().join(LIST))
        .with_context(|| format!("reading {LIST}"))?;
    let list: List = toml::from_str(&list).with_context(|| format!("reading {LIST}"))?;
    let read = |file: &str| std::fs::read_to_string(cargo::root().join(file)).unwrap_or_default();
    let complaints = complaints(&list, &all_advice()?, read);
    ensure!(complaints.is_empty(), "{complaints}");
    Ok(())
}

/// What is wrong with the list, and what to do. Empty if it is right.
fn complaints(list: &List, advice: &[Advice], read: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let covered = list.covered.values().flat_map(BTreeMap::values).flatten();
    let parts = covered.chain(&list.not_advice).chain(list.untested.keys());
    let mut listed = BTreeSet::new();
    for part in parts {
        let found = texts_with(part, advice);
        let _ = match found.len() {
            0 => writeln!(
                text,
                "{LIST}: no advice contains {part:?} any more: change or remove it"
            ),
            1 => Ok(()),
            // It might cover a text of which it says nothing.
            _ => writeln!(
                text,
                "{LIST}: {part:?} is in several texts, use a longer part: {found:?}"
            ),
        };
        listed.extend(found);
    }
    let missing = advice
        .iter()
        .filter(|advice| !listed.contains(&advice.text[..]));
    let missing: Vec<_> = missing.collect();
    for Advice { place, text: found } in &missing {
        let _ = writeln!(text, "{place}: no test follows this advice: {found:?}");
    }
    if !missing.is_empty() {
        text.push_str(WHAT_TO_DO);
    }
    for (file, tests) in &list.covered {
        let code = read(file);
        for test in tests.keys().filter(|test| !has_test(&code, test)) {
            let _ = writeln!(
                text,
                "{LIST}: {file} has no test {test}: name the one that follows the advice"
            );
        }
    }
    text
}

const WHAT_TO_DO: &str = "\
Write a test that causes the error, does what the text says and checks that it helps. Then add it to
xtask/advice.toml:
    [covered.\"CRATE/tests/FILE.rs\"]
    name_of_the_test = [\"part of the text\"]
If the text is not advice, add a part of it to `not_advice` there.
";

/// The text that is this part, or all texts that contain it.
fn texts_with<'a>(part: &str, advice: &'a [Advice]) -> BTreeSet<&'a str> {
    let texts = || advice.iter().map(|advice| &advice.text[..]);
    match texts().find(|text| *text == part) {
        Some(text) => BTreeSet::from([text]),
        None => texts().filter(|text| text.contains(part)).collect(),
    }
}

/// Returns whether `code` has a test function of this name: one under an attribute `#[test]`, or one
/// in the list of a macro such as `on_each_server!`, which has a line for each.
fn has_test(code: &str, name: &str) -> bool {
    if name.starts_with("test_") && code.contains(&format!("\ndef {name}(")) {
        return true; // One of Python.
    }
    let Some((before, _)) = code.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let attributes = before.rsplit_once('}').map_or(before, |(_, rest)| rest);
    attributes.contains("#[test]") || code.lines().any(|line| line.trim() == name)
}

fn all_advice() -> Result<Vec<Advice>> {
    let mut advice = Vec::new();
    for package in PRODUCT {
        for path in rust_files(&cargo::root().join(package).join("src"))? {
            add_advice(&mut advice, &path, |code| {
                strings(without_tests(&path, code))
            })?;
        }
    }
    for path in python::files()? {
        add_advice(&mut advice, &path, python::strings)?;
    }
    Ok(advice)
}

/// Adds the advice of a file of the product.
fn add_advice(
    advice: &mut Vec<Advice>,
    path: &Path,
    strings: impl Fn(&str) -> Vec<(usize, String)>,
) -> Result<()> {
    let file = path.strip_prefix(cargo::root()).context("below the root")?;
    let file = file.display().to_string();
    if FOR_TESTS.iter().any(|part| file.starts_with(part)) {
        return Ok(());
    }
    let code =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    for (line, text) in strings(&code) {
        if is_advice(&text) {
            let place = format!("{file}:{line}");
            advice.push(Advice { place, text });
        }
    }
    Ok(())
}

/// Returns whether `text` reads like advice: a clause of it begins with a verb, or it names a
/// command, an option or a condition.
fn is_advice(text: &str) -> bool {
    let begins_with_verb = |clause: &str| {
        let first = clause.split_whitespace().next();
        first.is_some_and(|first| VERBS.split(' ').any(|verb| verb == first))
    };
    let mut clauses = text
        .split([':', ';', ',', '(', '\n'])
        .flat_map(|part| part.split(". "))
        .flat_map(|part| part.split(" or "))
        .flat_map(|part| part.split(" and "))
        .flat_map(|part| part.split(" then "));
    // A short text that begins with a verb is a label, such as "read a dead letter".
    let words = text.split_whitespace().count();
    let first = clauses.next().unwrap_or_default();
    begins_with_verb(first) && words > 6
        || clauses.any(begins_with_verb)
        || SIGNS.iter().any(|sign| text.contains(sign))
        || text.starts_with("ipc ") && words > 2
}

/// The string literals of Rust code, each with the number of the line where it begins. Raw strings
/// may be returned in pieces.
fn strings(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = code[at..].find(['"', '\'', '/']) {
        at += next;
        let rest = &code[at..];
        at += if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") {
            "'\"'".len()
        } else if let Some(rest) = rest.strip_prefix('"') {
            let len = length(rest);
            let line = 1 + code[..at].matches('\n').count();
            found.push((line, unescaped(&rest[..len])));
            len + 2
        } else {
            1
        };
    }
    found
}

/// The number of bytes before the quote that ends a string literal.
fn length(literal: &str) -> usize {
    let mut escaped = false;
    let end = literal.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap_or(literal.len())
}

/// The text that a literal stands for, as far as it matters to a reader: lines are joined, and
/// quotes stand for themselves.
fn unescaped(literal: &str) -> String {
    let mut lines = literal.split("\\\n");
    let mut text = lines.next().unwrap_or_default().to_owned();
    lines.for_each(|line| text.push_str(line.trim_start()));
    text.replace("\\\"", "\"").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advice_of_the_product_is_followed_by_a_test() {
        check().unwrap_or_else(|error| panic!("{error:#}"));
    }

    const CODE: &str = r#"
        // "a comment: ignore it"
        let quote = '"';
        #[error("{name:?} is full: wait, or \
                 remove \"it\"")]
        bail!("no advice"); // 'a "lifetime"
    "#;

    #[test]
    fn strings_are_found_whole_and_with_their_line() {
        let wanted = [
            (4, "{name:?} is full: wait, or remove \"it\""),
            (6, "no advice"),
        ];
        let wanted = wanted.map(|(line, text)| (line, text.to_owned()));
        assert_eq!(strings(CODE), wanted);
    }

    #[test]
    fn advice_is_distinguished_from_labels_and_facts() {
        for text in [
            "the queue is full: wait, or receive some",
            "{a} (create it with a larger capacity)",
            "it was removed; open it again",
            "see / and /api/queues for the figures",
            "standard input is empty: ipc send {queue} '' sends an empty message",
            "ipc rm --force {about} removes it for ever",
            "{a} carries text: --raw sends the bytes",
            "replicas must be 1 to 5",
        ] {
            assert!(is_advice(text), "{text}");
        }
        for text in [
            "read a dead letter",
            "{a}: {b}",
            "open files",
            "the queue is full",
        ] {
            assert!(!is_advice(text), "{text}");
        }
    }

    fn list(test: &str, part: &str) -> List {
        let tests = BTreeMap::from([(test.to_owned(), vec![part.to_owned()])]);
        List {
            covered: BTreeMap::from([("a.rs".to_owned(), tests)]),
            ..List::default()
        }
    }

    #[test]
    fn advice_that_no_test_follows_is_named_with_what_to_do() {
        let advice = ["it is full: wait", "it is full: wait longer"].map(|text| Advice {
            place: "b.rs:1".to_owned(),
            text: text.to_owned(),
        });
        let read = |_: &str| "#[test]\nfn full() {\n}\n\n/// Doc.\nfn helper() {\n}\n".to_owned();
        let one = &advice[..1];
        assert_eq!(complaints(&list("full", "full: wait"), one, read), "");
        let none = complaints(&List::default(), one, read);
        assert!(none.contains("b.rs:1: no test follows this advice: \"it is full: wait\""));
        assert!(none.contains("[covered.\"CRATE/tests/FILE.rs\"]"), "{none}");
        for (test, part, advice, wanted) in [
            (
                "full",
                "empty: send",
                one,
                "no advice contains \"empty: send\" any more",
            ),
            (
                "full",
                "it is full",
                &advice,
                "is in several texts, use a longer part",
            ),
            (
                "full",
                "it is full: wait",
                &advice,
                "no test follows this advice",
            ),
            ("helper", "full: wait", one, "a.rs has no test helper"),
            ("gone", "full: wait", one, "a.rs has no test gone"),
        ] {
            let text = complaints(&list(test, part), advice, read);
            assert!(text.contains(wanted), "{text}");
        }
    }
}
