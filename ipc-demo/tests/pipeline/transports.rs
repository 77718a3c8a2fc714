//! The same report over every transport.

use crate::fingerprints::{check_kills, fingerprint_everything};

#[test]
fn processes_that_share_only_sockets_give_the_same_report() {
    fingerprint_everything(&["--transport", "unix"]);
}

#[test]
fn and_so_they_do_though_workers_are_killed() {
    let report = fingerprint_everything(&["--transport", "unix", "--kill-workers", "5"]);
    check_kills(5, &report);
}
