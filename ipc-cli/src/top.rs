//! `top`: a live view of queues.
//!
//! Reads the queues through read-only mappings, computes rates from two samples, and draws. The
//! time that a message is held counts from the first sample that shows it.

mod picture;
mod svg;
mod watch;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use serde_json::json;

use crate::show::{self, Show};
use crate::signals::EndSignals;
use watch::{Scope, Watch};

/// Watches until stopped. If the output cannot be drawn on, samples twice and prints.
pub fn top(
    what: Option<&str>,
    every: Duration,
    once: bool,
    width: u16,
    as_svg: bool,
    show: &Show,
) -> Result<()> {
    let mut watch = Watch::new(Scope::of(what));
    watch.look()?;
    if show.is_json() || once || !show::can_draw() {
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
    loop {
        terminal.draw(|frame| picture::draw(frame, watch.view()))?;
        let next = Instant::now() + every;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if end.is_asked() {
                return Ok(());
            }
            if !event::poll(left.min(SLICE))? {
                continue;
            }
            match event::read()? {
                Event::Key(key) => match (key.code, key.modifiers) {
                    (KeyCode::Char('q') | KeyCode::Esc, _) => return Ok(()),
                    (KeyCode::Char('c'), KeyModifiers::CONTROL) => return Ok(()),
                    _ => {}
                },
                Event::Resize(..) => break,
                _ => {}
            }
        }
        watch.look()?;
    }
}

/// Draws one picture, as high as its content.
fn still(watch: &Watch, width: u16) -> Result<Buffer> {
    let backend = TestBackend::new(width, picture::height(watch.view()));
    let mut terminal = Terminal::new(backend)?;
    terminal.draw(|frame| picture::draw(frame, watch.view()))?;
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
                state: "open",
            }],
            held: vec![Held {
                queue: "media/resize".into(),
                message: "9f#12".into(),
                holder: "worker".into(),
                pid: 4711,
                attempt: 2,
                seconds: 12.5,
            }],
            nodes: vec![NodeLine {
                node: "media/worker-1".into(),
                pid: 4711,
                health: "stale",
                beat_seconds: 6.5,
            }],
        }
    }

    fn drawn(width: u16) -> String {
        let view = view();
        let backend = TestBackend::new(width, picture::height(&view));
        let mut terminal = Terminal::new(backend).unwrap();
        terminal.draw(|frame| picture::draw(frame, &view)).unwrap();
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
            "stale",
            "q ends it",
        ] {
            assert!(picture.contains(word), "no {word} in\n{picture}");
        }
    }

    #[test]
    fn a_narrow_terminal_is_no_reason_to_fail() {
        for width in [1, 20, 40] {
            drawn(width);
        }
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most_and_that_whole() {
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
    fn what_is_not_there_takes_no_room() {
        let view = View {
            queues: view().queues,
            ..View::default()
        };
        assert_eq!(picture::height(&view), 4);
    }

    #[test]
    fn the_picture_is_xml_too() {
        let view = view();
        let mut terminal = Terminal::new(TestBackend::new(100, 20)).unwrap();
        terminal.draw(|frame| picture::draw(frame, &view)).unwrap();
        let svg = svg::svg(terminal.backend().buffer());
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{svg}"
        );
        assert!(svg.contains("media/resize"), "{svg}");
    }
}
