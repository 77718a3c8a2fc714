//! `top`: a live view of queues.
//!
//! Reads the queues through read-only mappings, computes rates from two samples, and draws them. A
//! message has been held for at least the time since it was first seen here, since its holder took
//! a message for the last time, or since its lease was last extended. It has been held for at most
//! the time since it was sent.

mod columns;
mod detail;
mod names;
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
use detail::Detail;
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

fn draw(terminal: &mut ratatui::DefaultTerminal, watch: &mut Watch, ui: &mut Ui) -> Result<()> {
    ui.unreadable = watch.unreadable();
    let Some(queue) = &ui.chosen else {
        terminal.draw(|frame| picture::draw(frame, watch.view(), ui))?;
        return Ok(());
    };
    let letters = watch.letters(queue);
    let view = watch.view();
    let held = view.held.iter().filter(|held| held.queue == *queue);
    let detail = Detail {
        line: view.queues.iter().find(|line| line.queue == *queue),
        facts: watch.facts(queue),
        letters: &letters,
        held: held.collect(),
    };
    terminal.draw(|frame| detail::draw(frame, &detail, ui))?;
    Ok(())
}

/// Draws one picture, as high as its content.
fn still(watch: &Watch, width: u16) -> Result<Buffer> {
    let backend = TestBackend::new(width, picture::height(watch.view()));
    let mut terminal = Terminal::new(backend)?;
    let mut ui = Ui {
        unreadable: watch.unreadable(),
        ..Ui::default()
    };
    terminal.draw(|frame| picture::draw(frame, watch.view(), &mut ui))?;
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
mod tests;
