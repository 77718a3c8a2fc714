//! The picture that `top` draws: all queues, the holders of messages, and the nodes.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Table, TableState};

use super::columns::{self, Column, longest};
use super::names::shortened_apart;
use super::ui::{Sort, Ui};
use super::watch::{Held, Line, NodeLine, View};
use crate::format::shortened;

/// In 80 columns there is room for all columns of rank 5 and below.
const QUEUES: [Column; 14] = [
    ("QUEUE", 14, 0),
    ("DEPTH", 5, 4),
    (" READY", 6, 0),
    ("  HELD", 6, 1),
    (" DELAY", 6, 7),
    ("  DEAD", 6, 1),
    ("   SENT", 7, 3),
    ("  ACKED", 7, 2),
    ("OLDEST", 6, 3),
    (" EMPTY", 6, 5),
    (" AGAIN", 6, 8),
    (" PROCS", 6, 9),
    ("DEATHS", 6, 6),
    ("STATE", 8, 2),
];
/// The greatest width of a bar.
const WIDEST_BAR: u16 = 40;
/// In 80 columns there is room for all but the last one.
const HELD: [Column; 8] = [
    ("HELD IN", 14, 0),
    ("MESSAGE", 20, 3),
    ("BY", 8, 1),
    ("    PID", 7, 0),
    ("IS", 7, 1),
    ("ATTEMPT", 7, 2),
    ("    FOR", 7, 0),
    ("LEASE ENDS IN", 13, 4),
];
const NODES: [Column; 4] = [
    ("NODE", 16, 0),
    ("     PID", 8, 1),
    ("STATE", 6, 0),
    ("LAST BEAT", 12, 1),
];

/// The maximum number of held messages in a picture that is as high as its content.
const MOST_HELD: usize = 12;
/// The number of lines reserved for held messages, and for nodes, before all queues are shown.
const LEAST: u16 = 5;

/// Returns the number of lines of a picture with everything in it.
pub fn height(view: &View) -> u16 {
    let parts = [
        lines(view.queues.len()),
        lines(view.held.len().min(MOST_HELD)),
        lines(view.nodes.len()),
    ];
    parts.into_iter().fold(1, u16::saturating_add)
}

/// Returns the height of a table with this many rows; 0 for an empty table.
pub fn lines(rows: usize) -> u16 {
    match rows {
        0 => 0,
        rows => u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2),
    }
}

/// Draws the part of `view` that `ui` selects.
pub fn draw(frame: &mut Frame<'_>, view: &View, ui: &mut Ui) {
    let queues = ui.shown(view);
    let is_shown = |held: &&Held| queues.iter().any(|line| line.queue == held.queue);
    let held: Vec<_> = view.held.iter().filter(is_shown).collect();
    let [title, body, keys] = split(frame.area(), ui);
    let (held_lines, node_lines) = (lines(held.len()), lines(view.nodes.len()));
    // Queues come first, but leave room for the other tables.
    let for_others = held_lines.min(LEAST) + node_lines.min(LEAST);
    let most = body.height.saturating_sub(for_others);
    let table = lines(queues.len()).min(most.max(4).min(body.height));
    let for_nodes = node_lines.min(LEAST);
    let rest = body.height - table;
    let held_lines = held_lines.min(rest.saturating_sub(for_nodes));
    let areas = [table, held_lines].map(Constraint::Length);
    let areas = Layout::vertical(areas.into_iter().chain([Constraint::Min(0)]));
    let [table, held_area, nodes] = areas.areas(body);
    let names: Vec<_> = queues.iter().map(|line| &line.queue[..]).collect();
    let names = Names::new(names, view, ui.is_live);
    frame.render_widget(summary(view, ui, &queues, &names), title);
    let mut state = TableState::new().with_selected(ui.is_live.then_some(ui.selected));
    let queues = queue_table(&queues, &names, table.width);
    // In one color: cells with colors of their own would make a patchwork.
    let queues = queues.row_highlight_style(Style::new().fg(Color::Reset).reversed());
    frame.render_stateful_widget(queues, table, &mut state);
    draw_held(frame, &held, &names, held_area);
    if !view.nodes.is_empty() {
        frame.render_widget(node_table(&view.nodes, nodes.width), nodes);
    }
    draw_keys(frame, ui, keys);
}

/// The title, the body, and the line of keys, if there is a user.
pub fn split(area: Rect, ui: &Ui) -> [Rect; 3] {
    let heights = [
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(u16::from(ui.is_live)),
    ];
    Layout::vertical(heights).areas(area)
}

/// Draws the last line: a question or a message if there is one, else a list of keys.
pub fn draw_keys(frame: &mut Frame<'_>, ui: &Ui, area: Rect) {
    let all = "p pause/resume  r requeue dead letters  d drain";
    let keys = match (&ui.question, &ui.said) {
        (Some(question), _) => format!("{} y/n", question.in_words()).yellow(),
        (None, said) if !said.is_empty() => said.as_str().yellow(),
        _ if ui.is_typing => format!("filter: {}_", ui.filter).yellow(),
        _ if ui.chosen.is_some() => format!("{all}  Esc back").dark_gray(),
        _ if !ui.filter.is_empty() => {
            format!("filter: {}  Esc all  s sort  Enter details", ui.filter).yellow()
        }
        _ => "q ends it  / filter  s sort  Enter details  p pause/resume  r requeue  d drain"
            .dark_gray(),
    };
    frame.render_widget(Paragraph::new(keys), area);
}

/// The names of the queues that are shown.
pub struct Names<'v> {
    all: Vec<&'v str>,
    /// The namespace of all of them, with its slash, if the title shows it.
    shared: &'v str,
}

impl<'v> Names<'v> {
    /// The title of a live view shows the namespace if all queues are in the same one.
    fn new(all: Vec<&'v str>, view: &View, is_live: bool) -> Self {
        let first = all.first().copied().unwrap_or_default();
        let shared = first.find('/').map_or("", |at| &first[..=at]);
        let is_address = first.contains(':');
        let mut lines = view.queues.iter();
        let is_shared = lines.all(|line| line.queue.starts_with(shared));
        let shared = if is_live && is_shared && !is_address {
            shared
        } else {
            ""
        };
        Self { all, shared }
    }

    fn without_shared<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.shared).unwrap_or(name)
    }

    fn within(&self) -> impl Iterator<Item = &'v str> {
        self.all.iter().map(|name| self.without_shared(name))
    }

    /// Short forms of the names.
    fn short(&self, room: u16) -> Vec<String> {
        shortened_apart(&self.within().collect::<Vec<_>>(), room.into())
    }
}

fn summary<'a>(view: &View, ui: &Ui, queues: &[&Line], names: &Names<'a>) -> Paragraph<'a> {
    let sum = |of: fn(&Line) -> u64| queues.iter().map(|line| of(line)).sum::<u64>();
    // Starts from zero, because the sum of no floats is minus zero.
    let rates = queues.iter().map(|queue| queue.acked_per_second);
    let rate = rates.fold(0.0, |sum, rate| sum + rate);
    let of = match queues.len() == view.queues.len() {
        true => String::new(),
        false => format!(" of {}", view.queues.len()),
    };
    let mut words = vec![
        Span::raw("ipc top  ").bold(),
        Span::raw(names.shared),
        Span::raw(if names.shared.is_empty() { "" } else { "  " }),
        Span::raw(format!(
            "{}{of} {}",
            queues.len(),
            if view.queues.len() == 1 {
                "queue"
            } else {
                "queues"
            }
        )),
        Span::raw(format!(", {} ready", sum(|line| line.ready))),
        Span::raw(format!(", {} held", sum(|line| line.held))),
    ];
    let dead = sum(|line| line.dead);
    let dead_words = Span::raw(format!("{dead} dead"));
    words.push(Span::raw(", "));
    words.push(if dead == 0 {
        dead_words
    } else {
        dead_words.red()
    });
    words.push(Span::raw(format!(", {} acked", per_second(rate))));
    if ui.unreadable > 0 {
        let unreadable = format!(", {} can't be read (ipc doctor)", ui.unreadable);
        words.push(Span::raw(unreadable).red());
    }
    if ui.sort != Sort::Name {
        words.push(Span::raw(format!(", by {}", ui.sort.name())).yellow());
    }
    Paragraph::new(Text::from(words))
}

fn queue_table<'a>(queues: &[&'a Line], names: &Names<'_>, width: u16) -> Table<'a> {
    // In a narrow terminal the text for both states at once is shortened, and nothing else is left
    // out.
    let is_narrow = width < 100;
    let state = |queue: &'a Line| match queue.state {
        "closed, paused" if is_narrow => "clos,pau",
        state => state,
    };
    let mut columns = QUEUES;
    let last = columns.len() - 1;
    columns[last].1 = columns[last]
        .1
        .max(longest(queues.iter().map(|line| state(line))));
    let mut wanted = columns.map(|(_, least, _)| least);
    wanted[0] = longest(names.within());
    wanted[1] = WIDEST_BAR;
    let widths = columns::fit(&columns, wanted, width);
    let short = names.short(widths[0].unwrap_or(0));
    let bar_width = widths[1].unwrap_or(0);
    let rows = queues.iter().zip(short).map(|(queue, name)| {
        let oldest = queue.oldest_seconds.map_or_else(String::new, seconds);
        let empty = queue.empty_in_seconds.map_or_else(String::new, seconds);
        let color = if queue.state == "open" {
            Color::Reset
        } else {
            Color::Yellow
        };
        [
            Cell::new(name).bold(),
            Cell::new(depth(queue, bar_width)),
            number(queue.ready),
            number(queue.held),
            number(queue.delayed),
            bad(queue.dead),
            Cell::new(right(&per_second(queue.sent_per_second), 7)),
            Cell::new(right(&per_second(queue.acked_per_second), 7)),
            Cell::new(right(&oldest, 6)),
            Cell::new(right(&empty, 6)),
            number(queue.redelivered),
            number(queue.processes),
            bad(queue.deaths),
            Cell::new(state(queue)).style(Style::new().fg(color)),
        ]
    });
    columns::table(&columns, &widths, rows)
}

/// A bar of the places that are taken.
pub fn depth(queue: &Line, width: u16) -> Span<'static> {
    let full = queue.in_use as f64 / queue.capacity.max(1) as f64;
    let bar = Span::raw(bar(full, width.into()));
    match full {
        full if full >= 0.9 => bar.red(),
        full if full >= 0.5 => bar.yellow(),
        _ => bar.green(),
    }
}

/// Draws the table of held messages: those held longest, as many as there is room for.
fn draw_held(frame: &mut Frame<'_>, held: &[&Held], names: &Names<'_>, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(2));
    if held.is_empty() || rows == 0 {
        return;
    }
    // The last row says how many there are besides.
    let shown = if held.len() > rows {
        rows - 1
    } else {
        held.len()
    };
    let held_shown = &held[..shown];
    let mut wanted = HELD.map(|(_, least, _)| least);
    wanted[0] = longest(
        held_shown
            .iter()
            .map(|one| names.without_shared(&one.queue)),
    );
    wanted[1] = longest(held_shown.iter().map(|one| &one.message[..]));
    wanted[2] = longest(held_shown.iter().map(|one| &one.holder[..]));
    let widths = columns::fit(&HELD, wanted, area.width);
    let room = |column: usize| usize::from(widths[column].unwrap_or(0));
    let short = names.short(widths[0].unwrap_or(0));
    let rows = held_shown.iter().map(|one| {
        let long = if one.held_at_least_seconds >= 10.0 {
            Color::Yellow
        } else {
            Color::Reset
        };
        let name = names.all.iter().position(|name| *name == one.queue);
        let name = name.map_or(&one.queue, |at| &short[at]);
        [
            Cell::new(name.as_str()),
            Cell::new(shortened(&one.message, room(1))),
            Cell::new(shortened(&one.holder, room(2))),
            Cell::new(right(&one.pid.to_string(), 7)),
            health(one.health),
            Cell::new(right(&one.attempt.to_string(), 7)),
            Cell::new(right(&seconds(one.held_at_least_seconds), 7)).style(Style::new().fg(long)),
            Cell::new(right(
                &one.lease_left_seconds.map_or_else(String::new, seconds),
                13,
            )),
        ]
    });
    frame.render_widget(columns::table(&HELD, &widths, rows), area);
    if shown < held.len() {
        let last = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        let more = format!("and {} more, held for less long", held.len() - shown);
        frame.render_widget(Paragraph::new(more.dark_gray()), last);
    }
}

/// Draws the messages that are held in one queue.
pub fn draw_held_in(frame: &mut Frame<'_>, held: &[&Held], area: Rect) {
    let name = held.first().map_or("", |held| &held.queue[..]);
    draw_held(
        frame,
        held,
        &Names::new(vec![name], &View::default(), false),
        area,
    );
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
    let mut wanted = NODES.map(|(_, least, _)| least);
    wanted[0] = longest(nodes.iter().map(|node| &node.node[..]));
    let widths = columns::fit(&NODES, wanted, width);
    let names: Vec<_> = nodes.iter().map(|node| &node.node[..]).collect();
    let names = shortened_apart(&names, widths[0].unwrap_or(0).into());
    let rows = nodes.iter().zip(names).map(|(node, name)| {
        let color = match node.health {
            "alive" => Color::Green,
            "stale" => Color::Yellow,
            _ => Color::Red,
        };
        [
            Cell::new(name),
            Cell::new(right(&node.pid.to_string(), 8)),
            Cell::new(node.health).style(Style::new().fg(color)),
            Cell::new(format!("{} ago", seconds(node.last_beat_ago_seconds))),
        ]
    });
    columns::table(&NODES, &widths, rows)
}

fn number(number: u64) -> Cell<'static> {
    Cell::new(right(&number.to_string(), 6))
}

/// Returns a cell for a number that should be zero.
fn bad(count: u64) -> Cell<'static> {
    let color = if count == 0 { Color::Reset } else { Color::Red };
    number(count).style(Style::new().fg(color))
}

pub fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

/// Draws a bar. It is full only if no place is free, and empty only if all places are free.
fn bar(full: f64, cells: usize) -> String {
    let filled = match full {
        full if full >= 1.0 => cells,
        full if full <= 0.0 => 0,
        full => ((full * cells as f64) as usize).clamp(1, cells.saturating_sub(1).max(1)),
    };
    let filled = filled.min(cells);
    "█".repeat(filled) + &"░".repeat(cells - filled)
}

/// Returns a rate in at most seven characters, up to a hundred million.
pub fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M/s", rate / 1e6),
        rate if rate >= 1e5 => format!("{:.0}k/s", rate / 1e3),
        rate if rate >= 1e3 => format!("{:.1}k/s", rate / 1e3),
        rate => format!("{rate:.0}/s"),
    }
}

pub fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 3600.0 => format!("{:.1}h", seconds / 3600.0),
        seconds if seconds >= 100.0 => format!("{:.1}m", seconds / 60.0),
        seconds => format!("{seconds:.1}s"),
    }
}
