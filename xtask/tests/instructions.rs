//! The cost of a message in instructions, which does not depend on a clock.

use std::process::Command;

#[test]
fn no_operation_takes_more_instructions_than_the_table_says() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command.arg("count").output().unwrap();
    let (told, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}{complaint}");
    if complaint.contains("SKIPPED") {
        eprintln!("{complaint}");
        return;
    }
    assert!(told.contains("inline") && told.contains("typed"), "{told}");
}
