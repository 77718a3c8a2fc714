//! A part of the sweep, small enough for everyday runs.

use std::process::{Command, Output};

fn sweep(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proofs"));
    command.arg("sweep").args(args).output().unwrap()
}

#[test]
fn an_ack_killed_at_any_instruction_happened_or_did_not() {
    let output = sweep(&["--json", "--quick", "--op", "ack", "--state", "chunked"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(report["violations"], 0, "{told}");
    assert_eq!(report["real_kills"], 1, "{told}");
    assert!(report["crash_states"].as_u64() >= Some(2), "{told}");
}

#[test]
fn an_unknown_operation_is_an_error_that_lists_them() {
    let output = sweep(&["--op", "defrost"]);
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    let listed = |name: &&str| complaint.contains(name);
    assert!(
        ["defrost", "send-inline", "remove"].iter().all(listed),
        "{complaint}"
    );
}
