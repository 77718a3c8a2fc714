//! The list of mutants, and the check that each still applies.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use xtask::cargo;

/// The path of the list in the workspace.
const LIST: &str = "ipc-queue/mutants.toml";

#[derive(Debug, Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

/// A wrong change of one file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// The name of the mutant.
    pub name: String,
    /// The file, in the workspace.
    pub file: PathBuf,
    /// The text to replace, which occurs once.
    find: String,
    /// The number of the occurrence, from 1, if there is more than one.
    nth: Option<usize>,
    /// The new text.
    replace: String,
    /// The harm it would do.
    pub why: String,
    /// The tests that must fail.
    pub caught_by: Check,
}

/// The tests that must catch a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The package of the tests.
    pub package: String,
    /// The test target; `None`: the library's own tests.
    pub target: Option<String>,
    /// Parts of their names; no other tests run at first.
    pub tests: Vec<String>,
}

impl Mutant {
    /// The file's text with the change.
    ///
    /// # Errors
    /// When the change does not apply: the code has changed, and the list must follow.
    pub fn apply(&self, text: &str) -> Result<String> {
        let places: Vec<usize> = text.match_indices(&self.find).map(|(at, _)| at).collect();
        let at = match (self.nth, &places[..]) {
            (None, [only]) => *only,
            (Some(nth), _) if (1..=places.len()).contains(&nth) => places[nth - 1],
            (nth, places) => bail!(
                "mutant {:?} is stale: its text stands {} times in {}, {} is wanted",
                self.name,
                places.len(),
                self.file.display(),
                nth.map_or("once".to_owned(), |nth| format!("number {nth}")),
            ),
        };
        let (before, rest) = text.split_at(at);
        Ok([before, &self.replace, &rest[self.find.len()..]].concat())
    }
}

/// All mutants.
///
/// # Errors
/// When the list is invalid.
pub fn load() -> Result<Vec<Mutant>> {
    let path = cargo::root().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let list: List = toml::from_str(&text).with_context(|| format!("parsing {LIST}"))?;
    Ok(list.mutant)
}

/// Checks that each mutant applies to the present sources, changes them, and has a unique name.
///
/// # Errors
/// Names every mutant that does not.
pub fn check(mutants: &[Mutant]) -> Result<()> {
    let mut names = HashSet::new();
    let mut complaints: Vec<String> = Vec::new();
    for mutant in mutants {
        if !names.insert(&mutant.name) {
            complaints.push(format!("two mutants are called {:?}", mutant.name));
        }
        let path = cargo::root().join(&mutant.file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        match mutant.apply(&text) {
            Ok(changed) if changed != text => {}
            Ok(_) => complaints.push(format!("mutant {:?} changes nothing", mutant.name)),
            Err(stale) => complaints.push(stale.to_string()),
        }
    }
    ensure!(
        complaints.is_empty(),
        "{LIST} does not fit the sources:\n{}",
        complaints.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_applies_to_the_sources() {
        check(&load().unwrap()).unwrap();
    }

    #[test]
    fn a_mutant_applies_at_its_place_or_is_stale() {
        let mut mutant = load().unwrap().remove(0);
        (mutant.find, mutant.replace) = ("one".to_owned(), "two".to_owned());
        assert_eq!(mutant.apply("just one").unwrap(), "just two");
        for stale in ["none", "one or one"] {
            let stale = stale.replace("none", "nothing");
            assert!(mutant.apply(&stale).is_err(), "{stale}");
        }
        mutant.nth = Some(2);
        assert_eq!(mutant.apply("one or one").unwrap(), "one or two");
        assert!(mutant.apply("one").is_err());
    }
}
