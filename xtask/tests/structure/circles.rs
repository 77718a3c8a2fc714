//! No module uses another that uses it in turn.

use std::collections::BTreeSet;

use xtask::cargo::CRATES;

use crate::modules::{ModulePath, Uses, uses_in};
use crate::root;

#[test]
fn no_crate_has_an_import_circle() {
    let mut circles = Vec::new();
    let mut modules = 0;
    for package in CRATES.into_iter().chain(["ipc-python"]) {
        let source = root().join(package).join("src");
        for first in ["lib.rs", "main.rs"].map(|name| source.join(name)) {
            if first.exists() {
                let uses = uses_in(&first);
                modules += uses.len();
                let found = circles_in(&uses);
                circles.extend(found.iter().map(|circle| format!("{package}: {circle}")));
            }
        }
    }
    assert!(modules > 300, "only {modules} modules were found");
    let circles = circles.join("\n");
    assert!(
        circles.is_empty(),
        "these modules use each other in a circle; move what they share to a module below both:\n\
         {circles}"
    );
}

/// One circle for each module that is in any, shortest first, without repetitions.
fn circles_in(uses: &Uses) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for start in uses.keys() {
        if let Some(mut circle) = way_back(uses, start) {
            let members: BTreeSet<ModulePath> = circle.iter().cloned().collect();
            circle.push(start.clone());
            if seen.insert(members) {
                let names = circle.iter().map(name_of);
                circles.push(names.collect::<Vec<_>>().join(" -> "));
            }
        }
    }
    circles
}

/// The shortest way from a module back to itself, without its end.
fn way_back(uses: &Uses, start: &ModulePath) -> Option<Vec<ModulePath>> {
    let mut ways = vec![vec![start.clone()]];
    let mut reached = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in &uses[way.last().unwrap()] {
                if next == start {
                    return Some(way);
                }
                if reached.insert(next.clone()) {
                    longer.push([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

fn name_of(module: &ModulePath) -> String {
    match module.is_empty() {
        true => "the crate's root".to_owned(),
        false => module.join("::"),
    }
}

#[test]
fn a_circle_is_named_with_its_members() {
    let module = |name: &str| vec![name.to_owned()];
    let uses: Uses = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]
        .into_iter()
        .map(|(from, to)| (module(from), BTreeSet::from([module(to)])))
        .collect();
    assert_eq!(circles_in(&uses), ["a -> b -> c -> a"]);
}
