//! Every subcommand has a row.

use std::collections::BTreeSet;

use super::{CASES, endless};
use crate::place::run;

/// Subcommands without a row, and why.
const EXEMPT: [(&str, &str); 1] = [("help", "clap's own: prints what --help prints")];

/// Returns the subcommands that a help text lists.
fn listed(args: &[&str]) -> BTreeSet<String> {
    let help = run(&[args, &["--help"]].concat()).expect(0).out;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let first_words = lines.filter_map(|line| {
        let word = line.strip_prefix("  ")?.split(' ').next()?;
        (!word.is_empty()).then(|| word.to_owned())
    });
    first_words.collect()
}

#[test]
fn every_subcommand_has_a_row() {
    let ends: BTreeSet<_> = CASES.iter().map(|case| case.args[0]).collect();
    let endless: BTreeSet<_> = endless::CASES.iter().map(endless::Endless::name).collect();
    let all = listed(&[]);
    assert!(all.len() > 30, "{all:?}");
    for subcommand in &all {
        let is_exempt = EXEMPT.iter().any(|(name, _)| name == subcommand);
        let has_row = ends.contains(&subcommand[..]) || endless.contains(&subcommand[..]);
        assert!(
            has_row != is_exempt,
            "{subcommand}: add a row to matrix.rs, or to matrix/endless.rs if it does not end by \
             itself"
        );
    }
    for subcommand in listed(&["dlq"]) {
        let rows = CASES.iter().filter(|case| case.args[0] == "dlq");
        let mut rows = rows.filter(|case| case.args[1] == subcommand);
        assert!(
            subcommand == "help" || rows.next().is_some(),
            "dlq {subcommand}: no row"
        );
    }
}
