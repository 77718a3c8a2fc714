//! The picture that `top` draws.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::watch::{Held, Line, NodeLine, View};

/// A column of a table: its title, its width and its rank. A narrow terminal shows fewer columns,
/// by rank, instead of truncating all of them.
type Column = (&'static str, u16, u8);

const QUEUES: [Column; 13] = [
    ("QUEUE", 14, 0),
    ("DEPTH", 9, 5),
    (" READY", 6, 0),
    ("  HELD", 6, 1),
    (" DELAY", 6, 6),
    ("  DEAD", 6, 1),
    ("    SENT", 8, 3),
    ("   ACKED", 8, 2),
    ("OLDEST", 6, 3),
    (" AGAIN", 6, 4),
    (" PROCS", 6, 6),
    ("DEATHS", 6, 4),
    ("STATE", 6, 2),
];
const HELD: [Column; 6] = [
    ("HELD MESSAGE", 24, 3),
    ("QUEUE", 14, 0),
    ("BY", 16, 1),
    ("     PID", 8, 0),
    ("ATTEMPT", 7, 2),
    ("     FOR", 8, 0),
];
const NODES: [Column; 4] = [
    ("NODE", 16, 0),
    ("     PID", 8, 1),
    ("STATE", 6, 0),
    ("LAST BEAT", 12, 1),
];

/// Returns the columns that fit into the width, the most important first.
fn fitting<const N: usize>(columns: &[Column; N], width: u16) -> [bool; N] {
    let mut by_rank: [usize; N] = std::array::from_fn(|at| at);
    by_rank.sort_by_key(|at| columns[*at].2);
    let mut fits = [false; N];
    let mut left = width;
    for at in by_rank {
        // The width includes the space before the next column.
        let Some(rest) = left.checked_sub(columns[at].1 + 1) else {
            break;
        };
        (fits[at], left) = (true, rest);
    }
    // At least one column is shown.
    fits[0] |= !fits.contains(&true);
    fits
}

/// Returns a table of the columns that fit. The first column gets the remaining width.
fn table<'a, const N: usize>(
    columns: &[Column; N],
    width: u16,
    rows: impl Iterator<Item = [Cell<'a>; N]>,
) -> Table<'a> {
    let fits = fitting(columns, width);
    let of = |cells: [Cell<'a>; N]| {
        let kept = cells.into_iter().zip(fits).filter(|(_, fits)| *fits);
        Row::new(kept.map(|(cell, _)| cell).collect::<Vec<_>>())
    };
    let shown = columns.iter().zip(fits).filter(|(_, fits)| *fits);
    let widths = shown.enumerate().map(|(at, ((_, wide, _), _))| match at {
        0 => Constraint::Min(*wide),
        _ => Constraint::Length(*wide),
    });
    let titles = columns.each_ref().map(|(title, ..)| Cell::new(*title));
    let header = of(titles)
        .style(Style::new().fg(Color::DarkGray))
        .top_margin(1);
    Table::new(rows.map(of), widths.collect::<Vec<_>>()).header(header)
}

/// Returns the number of lines of the picture.
pub fn height(view: &View) -> u16 {
    let parts = [
        lines(view.queues.len()),
        lines(view.held.len().min(MOST_HELD)),
        lines(view.nodes.len()),
    ];
    parts.into_iter().fold(1, u16::saturating_add)
}

/// The maximum number of held messages in the list. Those held longest come first.
const MOST_HELD: usize = 12;

pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let rows = |count: usize| Constraint::Length(lines(count));
    let areas = Layout::vertical([
        Constraint::Length(1),
        rows(view.queues.len()),
        rows(view.held.len().min(MOST_HELD)),
        Constraint::Min(0),
    ]);
    let [title, queues, held, nodes] = areas.areas(frame.area());
    frame.render_widget(summary(view), title);
    let width = frame.area().width;
    frame.render_widget(queue_table(&view.queues, width), queues);
    if !view.held.is_empty() {
        frame.render_widget(held_table(&view.held, width), held);
    }
    if !view.nodes.is_empty() {
        frame.render_widget(node_table(&view.nodes, width), nodes);
    }
}

/// Returns the height of a table with `rows` rows: zero without rows.
fn lines(rows: usize) -> u16 {
    match rows {
        0 => 0,
        rows => u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2),
    }
}

fn summary(view: &View) -> Paragraph<'_> {
    let ready: u64 = view.queues.iter().map(|queue| queue.ready).sum();
    // Starts at zero, because the sum of nothing is minus zero.
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

fn queue_table(queues: &[Line], width: u16) -> Table<'_> {
    let mut columns = QUEUES;
    let widest = queues.iter().map(|queue| queue.state.len()).max();
    let state = columns.len() - 1;
    columns[state].1 = columns[state].1.max(widest.unwrap_or(0) as u16);
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
        [
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
        ]
    });
    table(&columns, width, rows)
}

fn held_table(held: &[Held], width: u16) -> Table<'_> {
    let rows = held.iter().take(MOST_HELD).map(|one| {
        let long = if one.seconds >= 10.0 {
            Color::Yellow
        } else {
            Color::Reset
        };
        [
            Cell::new(one.message.as_str()),
            Cell::new(one.queue.as_str()),
            Cell::new(one.holder.as_str()),
            Cell::new(right(&one.pid.to_string(), 8)),
            number(one.attempt.into()),
            Cell::new(right(&seconds(one.seconds), 8)).style(Style::new().fg(long)),
        ]
    });
    table(&HELD, width, rows)
}

fn node_table(nodes: &[NodeLine], width: u16) -> Table<'_> {
    let rows = nodes.iter().map(|node| {
        let color = match node.health {
            "alive" => Color::Green,
            "stale" => Color::Yellow,
            _ => Color::Red,
        };
        [
            Cell::new(node.node.as_str()),
            Cell::new(right(&node.pid.to_string(), 8)),
            Cell::new(node.health).style(Style::new().fg(color)),
            Cell::new(format!("{} ago", seconds(node.beat_seconds))),
        ]
    });
    table(&NODES, width, rows)
}

fn number(number: u64) -> Cell<'static> {
    Cell::new(right(&number.to_string(), 6))
}

/// Returns a cell for a number that should be zero.
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
