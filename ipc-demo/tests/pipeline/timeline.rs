//! The picture of a run.

use std::fs;

use roxmltree::Document;

use crate::support::Place;

#[test]
fn the_timeline_is_valid_xml_and_shows_killed_workers() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.svg");
    let args = [
        "--simulate",
        "12",
        "--kill-workers",
        "3",
        "--json",
        "--timeline",
    ];
    let args = args
        .map(AsRef::as_ref)
        .into_iter()
        .chain([file.as_os_str()]);
    place.run(args).exact_report(12);
    let svg = fs::read_to_string(&file).unwrap();
    let picture = Document::parse(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    assert_eq!(picture.root_element().tag_name().name(), "svg");
    let texts: Vec<&str> = picture
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .filter_map(|node| node.text().map(str::trim))
        .collect();
    for words in [
        "workers killed: 3",
        "tasks done: 12",
        "tasks redelivered: 3",
    ] {
        assert!(texts.contains(&words), "{words} in {texts:?}");
    }
    let pids = texts.iter().filter(|text| text.starts_with("pid ")).count();
    assert!((1..=3).contains(&pids), "{texts:?}");
}

#[test]
fn an_unwritable_picture_path_fails_before_the_work() {
    let place = Place::new();
    let ended = place.run(["--simulate", "10", "--timeline", "/no/such/folder/run.svg"]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("/no/such/folder/run.svg"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("10 of 10"), "{ended:?}");
}
