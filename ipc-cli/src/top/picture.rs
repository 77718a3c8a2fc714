//! What `top` draws.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::watch::{Held, Line, NodeLine, View};

/// How many lines there are to see.
pub fn height(view: &View) -> u16 {
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(2);
    let parts = [
        rows(view.queues.len()),
        rows(view.held.len().min(MOST_HELD)),
        rows(view.nodes.len()),
    ];
    parts.into_iter().fold(1, u16::saturating_add)
}

/// More than these are not listed: those held for longest come first.
const MOST_HELD: usize = 12;

pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let rows = |count: usize| {
        Constraint::Length(u16::try_from(count).unwrap_or(u16::MAX).saturating_add(2))
    };
    let areas = Layout::vertical([
        Constraint::Length(1),
        rows(view.queues.len()),
        rows(view.held.len().min(MOST_HELD)),
        Constraint::Min(0),
    ]);
    let [title, queues, held, nodes] = areas.areas(frame.area());
    frame.render_widget(summary(view), title);
    frame.render_widget(queue_table(&view.queues), queues);
    frame.render_widget(held_table(&view.held), held);
    frame.render_widget(node_table(&view.nodes), nodes);
}

fn summary(view: &View) -> Paragraph<'_> {
    let ready: u64 = view.queues.iter().map(|queue| queue.ready).sum();
    // From zero: the sum of nothing is minus zero.
    let rates = view.queues.iter().map(|queue| queue.acked_per_second);
    let rate = rates.fold(0.0, |sum, rate| sum + rate);
    let words = format!(
        "{} queues, {ready} ready, {} acked   ",
        view.queues.len(),
        per_second(rate)
    );
    Paragraph::new(Text::from(vec![
        "ipc top  ".bold(),
        Span::raw(words),
        "q ends it".dark_gray(),
    ]))
}

fn queue_table(queues: &[Line]) -> Table<'_> {
    let rows = queues.iter().map(|queue| {
        let full = queue.ready as f64 / queue.capacity.max(1) as f64;
        let depth = match full {
            full if full >= 0.9 => Color::Red,
            full if full >= 0.5 => Color::Yellow,
            _ => Color::Green,
        };
        let oldest = queue.oldest_seconds.map_or_else(String::new, seconds);
        let state = if queue.state == "open" {
            Color::Reset
        } else {
            Color::Yellow
        };
        Row::new(vec![
            Cell::new(queue.queue.as_str()).bold(),
            Cell::new(bar(full)).style(Style::new().fg(depth)),
            number(queue.ready),
            number(queue.held),
            number(queue.delayed),
            bad(queue.dead),
            Cell::new(right(&per_second(queue.sent_per_second), 8)),
            Cell::new(right(&per_second(queue.acked_per_second), 8)),
            Cell::new(right(&oldest, 6)),
            number(queue.redelivered),
            number(queue.processes),
            bad(queue.deaths),
            Cell::new(queue.state).style(Style::new().fg(state)),
        ])
    });
    let widths = [
        Constraint::Min(10),
        Constraint::Length(10),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    Table::new(rows, widths).header(header(&[
        "QUEUE", "DEPTH", " READY", "  HELD", " DELAY", "  DEAD", "    SENT", "   ACKED", "OLDEST",
        " AGAIN", " PROCS", "DEATHS", "STATE",
    ]))
}

fn held_table(held: &[Held]) -> Table<'_> {
    let rows = held.iter().take(MOST_HELD).map(|one| {
        let long = if one.seconds >= 10.0 {
            Color::Yellow
        } else {
            Color::Reset
        };
        Row::new(vec![
            Cell::new(one.message.as_str()),
            Cell::new(one.queue.as_str()),
            Cell::new(one.holder.as_str()),
            number(one.pid.into()),
            number(one.attempt.into()),
            Cell::new(right(&seconds(one.seconds), 8)).style(Style::new().fg(long)),
        ])
    });
    let widths = [
        Constraint::Length(24),
        Constraint::Min(10),
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    Table::new(rows, widths).header(header(&[
        "HELD MESSAGE",
        "QUEUE",
        "BY",
        "     PID",
        "ATTEMPT",
        "     FOR",
    ]))
}

fn node_table(nodes: &[NodeLine]) -> Table<'_> {
    let rows = nodes.iter().map(|node| {
        let color = match node.health {
            "alive" => Color::Green,
            "stale" => Color::Yellow,
            _ => Color::Red,
        };
        Row::new(vec![
            Cell::new(node.node.as_str()),
            number(node.pid.into()),
            Cell::new(node.health).style(Style::new().fg(color)),
            Cell::new(format!("{} ago", seconds(node.beat_seconds))),
        ])
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(12),
    ];
    Table::new(rows, widths).header(header(&["NODE", "     PID", "STATE", "LAST BEAT"]))
}

fn header(names: &[&'static str]) -> Row<'static> {
    let cells = names.iter().map(|name| Cell::new(*name));
    Row::new(cells.collect::<Vec<_>>())
        .style(Style::new().fg(Color::DarkGray))
        .top_margin(1)
}

fn number(number: u64) -> Cell<'static> {
    Cell::new(right(&number.to_string(), 6))
}

/// One that should be zero.
fn bad(count: u64) -> Cell<'static> {
    let color = if count == 0 { Color::Reset } else { Color::Red };
    number(count).style(Style::new().fg(color))
}

fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

fn bar(full: f64) -> String {
    const CELLS: f64 = 9.0;
    let filled = (full.clamp(0.0, 1.0) * CELLS).ceil() as usize;
    "█".repeat(filled) + &"░".repeat(CELLS as usize - filled)
}

fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1}k/s", rate / 1e3),
        rate => format!("{rate:.0}/s"),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 3600.0 => format!("{:.1}h", seconds / 3600.0),
        seconds if seconds >= 100.0 => format!("{:.1}m", seconds / 60.0),
        seconds => format!("{seconds:.1}s"),
    }
}
