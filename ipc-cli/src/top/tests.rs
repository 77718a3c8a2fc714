use std::collections::HashSet;
use std::path::Path;
use std::{env, fs};

use super::watch::{Held, Line, NodeLine, View};
use super::*;

fn view() -> View {
    View {
        queues: vec![Line {
            queue: "media/resize".into(),
            ready: 120,
            in_use: 128,
            capacity: 256,
            held: 4,
            delayed: 3,
            dead: 1,
            processes: 5,
            sent_per_second: 1234.0,
            acked_per_second: 1100.5,
            redelivered: 7,
            deaths: 2,
            oldest_seconds: Some(3.25),
            empty_in_seconds: None,
            state: "open",
            blocked_senders: Some(0),
            blocked_receivers: Some(1),
        }],
        held: vec![Held {
            queue: "media/resize".into(),
            message: "9f#12".into(),
            holder: "worker".into(),
            pid: 4711,
            attempt: 2,
            held_at_least_seconds: 12.5,
            health: Some("stopped"),
            lease_left_seconds: None,
            held_at_most_seconds: Some(60.0),
        }],
        nodes: vec![NodeLine {
            node: "media/worker-1".into(),
            pid: 4711,
            health: "stale",
            last_beat_ago_seconds: 6.5,
        }],
    }
}

fn drawn(width: u16) -> String {
    let view = view();
    let backend = TestBackend::new(width, picture::height(&view));
    let mut terminal = Terminal::new(backend).unwrap();
    terminal
        .draw(|frame| picture::draw(frame, &view, &mut Ui::default()))
        .unwrap();
    text(terminal.backend().buffer())
}

#[test]
fn everything_is_in_the_picture() {
    let picture = drawn(110);
    for word in [
        "media/resize",
        "120",
        "1.2k/s",
        "1.1k/s",
        "3.2s",
        "4711",
        "9f#12",
        "12.5s",
        "worker",
        "stopped",
        "stale",
    ] {
        assert!(picture.contains(word), "no {word} in\n{picture}");
    }
}

#[test]
fn a_narrow_terminal_is_not_an_error() {
    for width in [1, 20, 40] {
        drawn(width);
    }
}

#[test]
fn a_narrow_terminal_shows_the_most_important_columns_completely() {
    let picture = drawn(50);
    for word in [
        "media/resize",
        " 120 ",
        "READY",
        "DEAD",
        "4711",
        "12.5s",
        "stale",
    ] {
        assert!(picture.contains(word), "no {word} in\n{picture}");
    }
    assert!(!picture.contains("PROCS"), "{picture}");
}

#[test]
fn eighty_columns_show_everything_that_an_operator_needs_first() {
    let mut view = view();
    view.queues[0].state = "closed, paused";
    view.queues[0].empty_in_seconds = Some(83.0);
    view.queues[0].queue = "media/thumbnails-for-the-archive-v2".into();
    view.held[0].queue = "media/thumbnails-for-the-archive-v2".into();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let drawn = terminal.draw(|frame| picture::draw(frame, &view, &mut Ui::default()));
    drawn.unwrap();
    let picture = text(terminal.backend().buffer());
    for word in [
        "DEPTH", "READY", "HELD", "DEAD", "SENT", "ACKED", "OLDEST", "EMPTY", "STATE", "83.0s",
        " 120 ", " 4 ", " 1 ", "1.2k/s", "1.1k/s", "3.2s", "clos,pau", "media/t", "…", "ive-v2",
        "12.5s", "9f#12",
    ] {
        assert!(picture.contains(word), "no {word:?} in\n{picture}");
    }
}

#[test]
fn queues_with_similar_names_can_be_told_apart_in_80_columns() {
    let mut view = view();
    let (line, held) = (view.queues[0].clone(), view.held[0].clone());
    view.queues.clear();
    view.held.clear();
    for region in 1..=9 {
        let queue = format!("media/customer-invoices-region-{region}-thumbnails-v2");
        view.queues.push(Line {
            queue: queue.clone(),
            ..line.clone()
        });
        view.held.push(Held {
            queue,
            ..held.clone()
        });
    }
    let mut ui = Ui {
        is_live: true,
        ..Ui::default()
    };
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal
        .draw(|frame| picture::draw(frame, &view, &mut ui))
        .unwrap();
    let picture = text(terminal.backend().buffer());
    let rows = |word: &str| {
        let rows = picture.lines().filter(|row| row.contains(word));
        let names = rows.map(|row| row.split_whitespace().next().unwrap());
        names.collect::<HashSet<_>>().len()
    };
    // The rest of the held messages is counted.
    assert_eq!((rows("1.1k/s"), rows("stopped")), (9, 5), "{picture}");
    assert!(
        picture.contains("and 4 more, held for less long"),
        "{picture}"
    );
    // The title has the namespace instead of each row.
    assert!(
        picture.starts_with("ipc top  media/  9 queues"),
        "{picture}"
    );
    assert_eq!(picture.matches("media/").count(), 2, "{picture}");
}

#[test]
fn a_bar_is_full_only_when_no_place_is_free() {
    let bar_of = |in_use: u64| {
        let mut view = view();
        view.queues[0].in_use = in_use;
        let mut terminal = Terminal::new(TestBackend::new(80, 8)).unwrap();
        let drawn = terminal.draw(|frame| picture::draw(frame, &view, &mut Ui::default()));
        drawn.unwrap();
        let picture = text(terminal.backend().buffer());
        picture.matches('█').count()
    };
    assert_eq!([0, 1, 255, 256].map(bar_of), [0, 1, 4, 5]);
}

#[test]
fn a_wide_terminal_has_every_column_and_longer_bars() {
    let picture = drawn(200);
    for word in ["EMPTY", "DELAY", "AGAIN", "PROCS", "DEATHS"] {
        assert!(picture.contains(word), "no {word:?} in\n{picture}");
    }
    let cells = picture.matches(['█', '░']).count();
    assert_eq!(cells, 40, "{picture}");
}

#[test]
fn missing_parts_take_no_room() {
    let view = View {
        queues: view().queues,
        ..View::default()
    };
    assert_eq!(picture::height(&view), 4);
}

#[test]
fn the_picture_is_also_valid_xml() {
    let view = view();
    let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
    terminal
        .draw(|frame| picture::draw(frame, &view, &mut Ui::default()))
        .unwrap();
    let svg = svg::svg(terminal.backend().buffer());
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
        "{svg}"
    );
    assert!(svg.contains("media/resize"), "{svg}");
}

/// What the picture in the README shows: one queue of each kind that an operator looks for.
fn documented() -> View {
    let line = Line {
        queue: "media/resize".into(),
        ready: 145,
        in_use: 149,
        capacity: 1024,
        held: 3,
        delayed: 0,
        dead: 1,
        processes: 4,
        sent_per_second: 39.0,
        acked_per_second: 61.0,
        redelivered: 2,
        deaths: 1,
        oldest_seconds: Some(1.4),
        empty_in_seconds: Some(6.6),
        state: "open",
        blocked_senders: Some(0),
        blocked_receivers: Some(0),
    };
    let held = |message: &str, pid, health, seconds| Held {
        queue: "media/resize".into(),
        message: format!("11592694c1e14264-{message}"),
        holder: "resizer".into(),
        pid,
        attempt: 1,
        held_at_least_seconds: seconds,
        health: Some(health),
        lease_left_seconds: Some(30.0 - seconds),
        held_at_most_seconds: Some(seconds),
    };
    View {
        queues: documented_queues(line),
        held: vec![
            held("0", 21333, "stopped", 18.2),
            held("73", 21332, "alive", 0.1),
            held("74", 21340, "alive", 0.0),
        ],
        nodes: vec![NodeLine {
            node: "media/planner".into(),
            pid: 21290,
            health: "alive",
            last_beat_ago_seconds: 0.3,
        }],
    }
}

/// A queue with a stopped holder, which is given, and three others.
fn documented_queues(line: Line) -> Vec<Line> {
    let quiet = Line {
        held: 0,
        dead: 0,
        sent_per_second: 0.0,
        acked_per_second: 0.0,
        deaths: 0,
        empty_in_seconds: None,
        ..line.clone()
    };
    vec![
        Line {
            queue: "media/mail".into(),
            ready: 0,
            in_use: 0,
            oldest_seconds: None,
            sent_per_second: 2.0,
            acked_per_second: 2.0,
            ..quiet.clone()
        },
        line,
        Line {
            queue: "media/thumbnails-for-the-archive".into(),
            ready: 256,
            in_use: 256,
            capacity: 256,
            oldest_seconds: Some(754.0),
            state: "paused",
            ..quiet.clone()
        },
        Line {
            queue: "media/transcode".into(),
            ready: 512,
            in_use: 530,
            delayed: 18,
            sent_per_second: 1480.0,
            acked_per_second: 1390.0,
            oldest_seconds: Some(0.4),
            ..quiet
        },
    ]
}

/// If this variable is set, the picture is written instead of compared.
const WRITE: &str = "IPC_WRITE_TABLE";

#[test]
fn the_picture_in_the_readme_has_the_present_layout() {
    let view = documented();
    let mut ui = Ui {
        is_live: true,
        selected: 1,
        ..Ui::default()
    };
    let height = picture::height(&view) + 2;
    let mut terminal = Terminal::new(TestBackend::new(100, height)).unwrap();
    terminal
        .draw(|frame| picture::draw(frame, &view, &mut ui))
        .unwrap();
    let svg = svg::svg(terminal.backend().buffer());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/top.svg");
    if env::var_os(WRITE).is_some() {
        fs::write(path, svg).unwrap();
        return;
    }
    assert!(
        fs::read_to_string(path).unwrap() == svg,
        "docs/top.svg is not what ipc top draws: cargo xtask table writes it"
    );
}
