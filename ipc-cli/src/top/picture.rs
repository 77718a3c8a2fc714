//! The picture that `top` draws.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::ui::{Sort, Ui};
use super::watch::{Held, Line, NodeLine, View};
use crate::format::shortened;

/// A column of a table: its title, its width and its rank. A narrow terminal shows fewer columns,
/// by rank, instead of truncating all of them.
type Column = (&'static str, u16, u8);

/// In 80 columns there is room for all columns of rank 4 and below.
const QUEUES: [Column; 14] = [
    ("QUEUE", 14, 0),
    ("DEPTH", 7, 4),
    (" READY", 6, 0),
    ("  HELD", 6, 1),
    (" DELAY", 6, 6),
    ("  DEAD", 6, 1),
    ("    SENT", 8, 3),
    ("   ACKED", 8, 2),
    ("OLDEST", 6, 3),
    (" EMPTY", 6, 5),
    (" AGAIN", 6, 7),
    (" PROCS", 6, 8),
    ("DEATHS", 6, 5),
    ("STATE", 8, 2),
];
const HELD: [Column; 7] = [
    ("HELD MESSAGE", 24, 3),
    ("QUEUE", 14, 0),
    ("BY", 16, 1),
    ("     PID", 8, 0),
    ("IS", 7, 1),
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
/// The number of lines reserved for held messages, and for nodes, before all queues are shown.
const LEAST: u16 = 5;

/// Draws the part of `view` that `ui` selects.
pub fn draw(frame: &mut Frame<'_>, view: &View, ui: &mut Ui) {
    let queues = ui.shown(view);
    let area = frame.area();
    let [held, nodes] = [view.held.len().min(MOST_HELD), view.nodes.len()].map(lines);
    let height = area.height.saturating_sub(1);
    // Queues come first, but leave room for the other tables.
    let for_others = held.min(LEAST) + nodes.min(LEAST);
    let most = height.saturating_sub(for_others).max(4).min(height);
    let table = lines(queues.len()).min(most);
    let held = held.min(height - table);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(table),
        Constraint::Length(held),
        Constraint::Min(0),
    ]);
    let [title, table, held, nodes] = areas.areas(area);
    frame.render_widget(summary(view, ui, &queues), title);
    let width = area.width;
    let mut state = TableState::new().with_selected(ui.is_live.then_some(ui.selected));
    let queues = queue_table(&queues, width).row_highlight_style(Style::new().reversed());
    frame.render_stateful_widget(queues, table, &mut state);
    if !view.held.is_empty() {
        frame.render_widget(held_table(&view.held, width), held);
    }
    if !view.nodes.is_empty() {
        frame.render_widget(node_table(&view.nodes, width), nodes);
    }
}

/// The facts of a queue that are shown first.
const FIRST: [&str; 8] = [
    "queue",
    "state",
    "now",
    "oldest",
    "since it was made",
    "and",
    "payload pool",
    "waiting now",
];

/// Draws one queue alone: everything that is known about it, and the holders of its messages.
pub fn draw_one(frame: &mut Frame<'_>, facts: &[(&str, String)], view: &View, ui: &Ui) {
    let name = ui.chosen.as_deref().unwrap_or_default();
    let held: Vec<_> = view
        .held
        .iter()
        .filter(|held| held.queue == name)
        .cloned()
        .collect();
    let area = frame.area();
    let held_height = lines(held.len().min(MOST_HELD)).min(area.height / 2);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(held_height),
    ]);
    let [title, body, below] = areas.areas(area);
    frame.render_widget(footer(name, ui), title);
    // Changing values go first, because the settings may not fit.
    let mut facts: Vec<_> = facts.iter().collect();
    let rank = |name: &str| FIRST.iter().position(|first| *first == name);
    facts.sort_by_key(|(name, _)| rank(name).unwrap_or(FIRST.len()));
    let lines = facts.into_iter().map(|(name, fact)| {
        Text::from(vec![
            format!("{name:<18} ").dark_gray(),
            Span::raw(fact.clone()),
        ])
    });
    let lines = Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: false });
    frame.render_widget(lines, body);
    if !held.is_empty() {
        frame.render_widget(held_table(&held, area.width), below);
    }
}

/// Returns the first line: a question or a message if there is one, else a list of keys.
fn footer<'a>(before: &str, ui: &'a Ui) -> Paragraph<'a> {
    // A question or an answer takes the whole line.
    let before = match ui.question.is_some() || !ui.said.is_empty() {
        true => String::new(),
        false => format!("{before}   "),
    };
    let rest = match (&ui.question, &ui.said) {
        (Some(question), _) => format!("{} y/n", question.in_words()).yellow(),
        (None, said) if !said.is_empty() => said.as_str().yellow(),
        _ if ui.is_typing => format!("filter: {}_", ui.filter).yellow(),
        _ if ui.chosen.is_some() => {
            "p pause/resume  r requeue dead letters  d drain  Esc back".dark_gray()
        }
        _ if ui.is_live => "q ends it  / filter  s sort  Enter details".dark_gray(),
        _ => "q ends it".dark_gray(),
    };
    Paragraph::new(Text::from(vec![before.bold(), rest]))
}

/// Returns the height of a table with this many rows; 0 for an empty table.
fn lines(rows: usize) -> u16 {
    match rows {
        0 => 0,
        rows => u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2),
    }
}

fn summary<'a>(view: &View, ui: &'a Ui, queues: &[&Line]) -> Paragraph<'a> {
    let ready: u64 = queues.iter().map(|queue| queue.ready).sum();
    // Starts from zero, because the sum of no floats is minus zero.
    let rates = queues.iter().map(|queue| queue.acked_per_second);
    let rate = rates.fold(0.0, |sum, rate| sum + rate);
    let of = match queues.len() == view.queues.len() {
        true => String::new(),
        false => format!(" of {}", view.queues.len()),
    };
    let sorted = match ui.sort {
        Sort::Name => String::new(),
        sort => format!(", by {}", sort.name()),
    };
    let words = format!(
        "ipc top  {}{of} queues, {ready} ready, {} acked{sorted}",
        queues.len(),
        per_second(rate)
    );
    footer(&words, ui)
}

fn queue_table<'a>(queues: &[&'a Line], width: u16) -> Table<'a> {
    let mut columns = QUEUES;
    // In a narrow terminal the text for both states at once is shortened, and nothing else is left
    // out.
    let is_narrow = width < 100;
    let state = |queue: &'a Line| match queue.state {
        "closed, paused" if is_narrow => "clos,pau",
        state => state,
    };
    let last = columns.len() - 1;
    let widest = queues.iter().map(|queue| state(queue).len()).max();
    columns[last].1 = columns[last].1.max(widest.unwrap_or(0) as u16);
    let fits = fitting(&columns, width);
    let others = columns.iter().zip(fits).skip(1).filter(|(_, fits)| *fits);
    let others: u16 = others.map(|((_, wide, _), _)| wide + 1).sum();
    let room = usize::from(width.saturating_sub(others + 1)).max(usize::from(columns[0].1));
    let longest = queues.iter().map(|queue| queue.queue.chars().count()).max();
    // In a wide terminal the bars get the room that names do not need.
    let spare = room.saturating_sub(longest.unwrap_or(0).max(columns[0].1.into()));
    let bar_width = usize::from(columns[1].1) + spare.min(33);
    columns[1].1 = bar_width as u16;
    let rows = queues.iter().map(|queue| {
        let full = queue.in_use as f64 / queue.capacity.max(1) as f64;
        let depth = match full {
            full if full >= 0.9 => Color::Red,
            full if full >= 0.5 => Color::Yellow,
            _ => Color::Green,
        };
        let oldest = queue.oldest_seconds.map_or_else(String::new, seconds);
        let empty = queue.empty_in_seconds.map_or_else(String::new, seconds);
        let color = if queue.state == "open" {
            Color::Reset
        } else {
            Color::Yellow
        };
        [
            Cell::new(shortened(&queue.queue, room)).bold(),
            Cell::new(bar(full, bar_width)).style(Style::new().fg(depth)),
            number(queue.ready),
            number(queue.held),
            number(queue.delayed),
            bad(queue.dead),
            Cell::new(right(&per_second(queue.sent_per_second), 8)),
            Cell::new(right(&per_second(queue.acked_per_second), 8)),
            Cell::new(right(&oldest, 6)),
            Cell::new(right(&empty, 6)),
            number(queue.redelivered),
            number(queue.processes),
            bad(queue.deaths),
            Cell::new(state(queue)).style(Style::new().fg(color)),
        ]
    });
    table(&columns, width, rows)
}

fn held_table(held: &[Held], width: u16) -> Table<'_> {
    let rows = held.iter().take(MOST_HELD).map(|one| {
        let long = if one.held_at_least_seconds >= 10.0 {
            Color::Yellow
        } else {
            Color::Reset
        };
        [
            Cell::new(one.message.as_str()),
            Cell::new(shortened(&one.queue, 14)),
            Cell::new(one.holder.as_str()),
            Cell::new(right(&one.pid.to_string(), 8)),
            health(one.health),
            number(one.attempt.into()),
            Cell::new(right(&seconds(one.held_at_least_seconds), 8)).style(Style::new().fg(long)),
        ]
    });
    table(&HELD, width, rows)
}

fn health(health: Option<&'static str>) -> Cell<'static> {
    let color = match health {
        Some("stopped") => Color::Yellow,
        Some("dead") => Color::Red,
        _ => Color::Reset,
    };
    Cell::new(health.unwrap_or_default()).style(Style::new().fg(color))
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
            Cell::new(format!("{} ago", seconds(node.last_beat_ago_seconds))),
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

/// Draws a bar. It is full only if no place is free, and empty only if all places are free.
fn bar(full: f64, cells: usize) -> String {
    let filled = match full {
        full if full >= 1.0 => cells,
        full if full <= 0.0 => 0,
        full => ((full * cells as f64) as usize).clamp(1, cells.saturating_sub(1).max(1)),
    };
    "█".repeat(filled) + &"░".repeat(cells - filled)
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
