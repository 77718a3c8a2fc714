//! For any files and any deaths, the report agrees with `wc` and `sha256sum`.

use std::fs;

use serde_json::Value;

use crate::support::{Place, sum};
use crate::tree::{Tree, border_content, part_borders};

#[test]
fn files_of_all_sorts_are_reported_like_wc_and_sha256sum() {
    fingerprint_everything(&[]);
}

#[test]
fn workers_killed_in_the_middle_of_a_task_change_nothing() {
    check_kills(5, &fingerprint_everything(&["--kill-workers", "5"]));
}

#[test]
fn one_worker_killed_again_and_again_is_enough() {
    let report = fingerprint_everything(&["--workers", "1", "--kill-workers", "3"]);
    check_kills(3, &report);
    assert_eq!(report["workers"].as_array().unwrap().len(), 1);
}

#[test]
fn threads_give_the_same_report() {
    fingerprint_everything(&["--transport", "local"]);
}

#[test]
fn threads_killed_in_the_middle_of_a_task_change_nothing() {
    let report = fingerprint_everything(&["--transport", "local", "--kill-workers", "5"]);
    check_kills(5, &report);
}

#[test]
fn a_task_whose_worker_is_killed_many_times_is_finally_done() {
    let place = Place::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "content").unwrap();
    let args = ["--json", "--kill-workers", "8", "--input"].map(AsRef::as_ref);
    let ended = place.run(args.into_iter().chain([file.path().as_os_str()]));
    check_kills(8, &ended.exact_report(1));
}

#[test]
fn ten_thousand_small_files_are_all_there() {
    let place = Place::new();
    let tree = Tree::of_small_files(&place, 10_000);
    let report = fingerprint(&place, &tree, &[]);
    assert_eq!(report["distinct"], 10_000);
}

#[test]
fn a_file_that_ends_at_a_part_boundary_takes_one_more_part() {
    let place = Place::new();
    let messages = part_borders().map(|size| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), border_content(size)).unwrap();
        let args = ["--json", "--workers", "1", "--input"].map(AsRef::as_ref);
        let args = args.into_iter().chain([file.path().as_os_str()]);
        let report = place.run(args).exact_report(1);
        report["stats"]["messages_sent"].as_u64().unwrap()
    });
    // The worker reports that it is ready. Each part causes a task message, a report of its start,
    // and an answer.
    assert_eq!(messages, [1, 2, 2, 3].map(|parts| 1 + 3 * parts));
}

pub fn fingerprint_everything(options: &[&str]) -> Value {
    let place = Place::unprivileged();
    let tree = Tree::of_everything(&place);
    fingerprint(&place, &tree, options)
}

fn fingerprint(place: &Place, tree: &Tree, options: &[&str]) -> Value {
    let options = options.iter().copied().chain(["--json", "--input"]);
    let args = options
        .map(AsRef::as_ref)
        .chain(tree.inputs.iter().map(|path| path.as_os_str()));
    let code = if tree.problems() > 0 { 3 } else { 0 };
    let report = place.run(args).exact_report_with(code, tree.len());
    assert_eq!(report["distinct"], tree.len() - tree.problems());
    tree.check(&report["files"]);
    report
}

pub fn check_kills(kills: u64, report: &Value) {
    assert!(report["redelivered"].as_u64() >= Some(kills), "{report}");
    assert_eq!(sum(&report["workers"], "restarts"), kills, "{report}");
}
