//! The quick scenarios, as `cargo xtask scenarios` plays them.

use std::process::{Command, Output};

/// More than a second each: only in `cargo xtask scenarios` itself.
const SLOW: [&str; 7] = [
    "sender-killed-mid-send",
    "recoverer-killed",
    "shared-memory-full",
    "exec-in-the-middle",
    "hundred-attachments",
    "pool-lease",
    "one-minute-outage",
];

fn scenarios(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proofs"));
    command.arg("scenarios").args(args).output().unwrap()
}

#[test]
fn the_quick_scenarios_keep_their_promises() {
    let list = String::from_utf8(scenarios(&["--list"]).stdout).unwrap();
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(SLOW.iter().all(|slow| names.contains(slow)), "{names:?}");
    let quick: Vec<&str> = names
        .into_iter()
        .filter(|name| !SLOW.contains(name))
        .collect();
    let output = scenarios(&[&["--json"], &quick[..]].concat());
    let told = String::from_utf8_lossy(&output.stdout);
    let reports: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(reports.len(), quick.len());
    assert!(output.status.success(), "{told}");
    assert!(reports.iter().all(|report| report["ok"] == true), "{told}");
}

#[test]
fn an_unknown_scenario_is_an_error_that_names_it() {
    let output = scenarios(&["worker-promoted"]);
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("worker-promoted"), "{complaint}");
}
