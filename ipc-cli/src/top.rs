//! `top`: a live view of queues.
//!
//! Reads the queues through read-only mappings, computes rates from two samples, and draws them. A
//! message has been held for at least the time since it was first seen here or since its lease was
//! last extended, and for at most the time since it was sent.

mod picture;
mod svg;
mod ui;
pub mod watch;

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::json;

use crate::show::Show;
use crate::signals::EndSignals;
use crate::terminal;
use ui::{Asked, Ui};
use watch::{Scope, Watch};

/// Watches until stopped. If the output cannot be drawn on, samples twice and prints.
pub fn top(
    what: &[String],
    every: Duration,
    once: bool,
    width: u16,
    as_svg: bool,
    show: &Show,
) -> Result<()> {
    let mut watch = Watch::new(Scope::of(what)?);
    watch.look()?;
    if show.is_json() || once || !terminal::can_draw() {
        thread::sleep(every);
        watch.look()?;
        if show.is_json() {
            show.say(&json!(watch.view()), String::new);
        } else {
            let picture = still(&watch, width)?;
            show.line(&if as_svg {
                svg::svg(&picture)
            } else {
                text(&picture)
            });
        }
        return Ok(());
    }
    let end = EndSignals::listen()?;
    let mut terminal = ratatui::try_init().context("preparing the terminal")?;
    let ended = live(&mut terminal, &mut watch, every, &end);
    ratatui::restore();
    ended
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    watch: &mut Watch,
    every: Duration,
    end: &EndSignals,
) -> Result<()> {
    /// The time between two checks for a request to stop.
    const SLICE: Duration = Duration::from_millis(100);
    let mut ui = Ui {
        is_live: true,
        ..Ui::default()
    };
    loop {
        draw(terminal, watch, &mut ui)?;
        let next = Instant::now() + every;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if end.is_asked() {
                return Ok(());
            }
            // Check this first: if the terminal is gone, reading events would never end.
            if is_gone(left.min(SLICE)) {
                return Ok(());
            }
            if !event::poll(Duration::ZERO)? {
                continue;
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    if ui.press(key, watch.view()) == Asked::End {
                        return Ok(());
                    }
                    draw(terminal, watch, &mut ui)?;
                }
                Event::Resize(..) => break,
                _ => {}
            }
        }
        watch.look()?;
    }
}

/// Waits for a key, at most this long. Returns whether the terminal was closed.
fn is_gone(time: Duration) -> bool {
    let input = io::stdin();
    let mut polled = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    // If polling fails, a signal arrived.
    poll(&mut polled, time).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.intersects(gone))
}

fn draw(terminal: &mut ratatui::DefaultTerminal, watch: &Watch, ui: &mut Ui) -> Result<()> {
    let facts = ui.chosen.as_ref().map(|queue| watch.facts(queue));
    terminal.draw(|frame| match &facts {
        Some(facts) => picture::draw_one(frame, facts, watch.view(), ui),
        None => picture::draw(frame, watch.view(), ui),
    })?;
    Ok(())
}

/// Draws one picture, as high as its content.
fn still(watch: &Watch, width: u16) -> Result<Buffer> {
    let backend = TestBackend::new(width, picture::height(watch.view()));
    let mut terminal = Terminal::new(backend)?;
    terminal.draw(|frame| picture::draw(frame, watch.view(), &mut Ui::default()))?;
    Ok(terminal.backend().buffer().clone())
}

fn text(picture: &Buffer) -> String {
    let area = picture.area;
    let row = |y: u16| -> String {
        let cells = (0..area.width).filter_map(|x| picture.cell((x, y)));
        let row: String = cells.map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned()
    };
    (0..area.height).map(row).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
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
            "q ends it",
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
        view.queues[0].queue = "media/thumbnails-for-the-archive-v2".into();
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let drawn = terminal.draw(|frame| picture::draw(frame, &view, &mut Ui::default()));
        drawn.unwrap();
        let picture = text(terminal.backend().buffer());
        for word in [
            "DEPTH", "READY", "HELD", "DEAD", "SENT", "ACKED", "OLDEST", "STATE", " 120 ", " 4 ",
            " 1 ", "1.2k/s", "1.1k/s", "3.2s", "clos,pau", "media/t", "…", "ive-v2", "12.5s",
        ] {
            assert!(picture.contains(word), "no {word:?} in\n{picture}");
        }
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
        assert_eq!([0, 1, 255, 256].map(bar_of), [0, 1, 8, 9]);
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
}
