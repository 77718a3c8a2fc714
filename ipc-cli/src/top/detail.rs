//! The picture of one queue: its figures, its dead letters, and the holders of its messages.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph};

use super::columns::{self, Column, longest};
use super::picture::{self, per_second, right, seconds};
use super::ui::Ui;
use super::watch::{Held, Line};
use crate::dlq;
use crate::format;

/// In 80 columns there is room for all columns of rank 2 and below.
const LETTERS: [Column; 7] = [
    ("DEAD LETTER", 11, 0),
    ("   SENT", 7, 1),
    ("WHY", 7, 1),
    ("ATTEMPTS", 8, 2),
    ("PAYLOAD", 16, 3),
    ("LAST HELD BY", 12, 4),
    ("WHAT ITS RECEIVER SAID", 42, 0),
];

/// The width of the names of facts, with the space after them.
const NAMES: usize = 18;
const BAR: u16 = 30;

/// Facts that change, in order. They are shown completely before anything else.
const CHANGING: [&str; 8] = [
    "now",
    "oldest",
    "since it was made",
    "and",
    "keys",
    "payload pool",
    "blocked now",
    "processes",
];
/// Facts that never change, apart from the settings.
const FIXED: [&str; 4] = ["type", "room for", "file", "memory"];
/// Facts that the title shows.
const IN_TITLE: [&str; 2] = ["queue", "state"];

/// Everything about the queue.
pub struct Detail<'v> {
    pub line: Option<&'v Line>,
    pub facts: Vec<(&'static str, String)>,
    pub letters: &'v [dlq::Row],
    /// Those held longest first.
    pub held: Vec<&'v Held>,
}

pub fn draw(frame: &mut Frame<'_>, detail: &Detail<'_>, ui: &Ui) {
    let [title, body, keys] = picture::split(frame.area(), ui);
    let name = ui.chosen.as_deref().unwrap_or_default();
    frame.render_widget(head(name, detail.line, title.width), title);
    let width = body.width.into();
    let (mut lines, fixed) = (changing(detail, width), fixed(&detail.facts, width));
    let rest = body
        .height
        .saturating_sub(u16::try_from(lines.len()).unwrap_or(u16::MAX));
    let letters = picture::lines(detail.letters.len());
    let held = picture::lines(detail.held.len());
    // Each table gets a half of the rest, and what the other does not need.
    let held = held.min((rest / 2).max(rest.saturating_sub(letters)));
    let letters = letters.min(rest - held);
    lines.extend(fixed);
    let heights = [letters, held].map(Constraint::Length);
    let areas = Layout::vertical([Constraint::Min(0)].into_iter().chain(heights));
    let [facts, letters, held] = areas.areas(body);
    frame.render_widget(Paragraph::new(lines), facts);
    draw_letters(frame, detail.letters, letters);
    picture::draw_held_in(frame, &detail.held, held);
    picture::draw_keys(frame, ui, keys);
}

fn head(name: &str, line: Option<&Line>, width: u16) -> Paragraph<'static> {
    let state = line.map_or("gone", |line| line.state);
    let room = usize::from(width).saturating_sub(state.len() + 2);
    let name = format::shortened(name, room);
    let gap = room.saturating_sub(name.chars().count()) + 2;
    let state = match state {
        "open" => state.green(),
        _ => state.yellow(),
    };
    Paragraph::new(Text::from(vec![
        name.bold(),
        Span::raw(" ".repeat(gap)),
        state,
    ]))
}

fn changing(detail: &Detail<'_>, width: usize) -> Vec<Text<'static>> {
    let mut lines = Vec::new();
    if let Some(line) = detail.line {
        let bar = BAR.min(u16::try_from(width.saturating_sub(50)).unwrap_or(BAR));
        lines.push(Text::from(vec![
            name("depth"),
            picture::depth(line, bar),
            Span::raw(format!(" {} of {} places", line.in_use, line.capacity)),
        ]));
        let rates = rates(line);
        if !rates.is_empty() {
            lines.extend(fact("rates", &rates, width));
        }
    }
    for key in CHANGING {
        let found = detail.facts.iter().find(|(name, _)| *name == key);
        if let Some((_, words)) = found.filter(|(_, words)| !words.is_empty()) {
            lines.extend(fact(key, words, width));
        }
    }
    lines
}

/// Says how fast the backlog changes, and when it ends.
fn rates(line: &Line) -> String {
    let (Some(sent), Some(acked)) = (line.sent_per_second, line.acked_per_second) else {
        return String::new();
    };
    let rates = format!("{} sent, {} acked", per_second(sent), per_second(acked));
    let free = line.capacity.saturating_sub(line.in_use);
    let ends = match line.empty_in_seconds {
        Some(time) => format!("; nothing is ready in {}", seconds(time)),
        None if sent > acked && free > 0 => {
            format!("; full in {}", seconds(free as f64 / (sent - acked)))
        }
        None => String::new(),
    };
    rates + &ends
}

fn fixed(facts: &[(&'static str, String)], width: usize) -> Vec<Text<'static>> {
    let others = [&CHANGING[..], &FIXED, &IN_TITLE].concat();
    let is_setting = |name: &str| !others.contains(&name);
    let settings = facts
        .iter()
        .filter(|(name, words)| is_setting(name) && words != "not used");
    let settings: Vec<_> = settings
        .map(|(name, words)| format!("{name} {words}"))
        .collect();
    let mut lines = fact("settings", &settings.join(", "), width);
    for key in FIXED {
        if let Some((name, words)) = facts.iter().find(|(name, _)| *name == key) {
            lines.extend(fact(name, words, width));
        }
    }
    lines
}

fn name(name: &str) -> Span<'static> {
    format!("{name:<NAMES$}").dark_gray()
}

/// Returns a fact in lines of at most `width`. Further lines begin below the first word.
fn fact(called: &str, words: &str, width: usize) -> Vec<Text<'static>> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in words.split(' ') {
        let last = lines.last_mut().expect("there is a line");
        let used = NAMES + last.chars().count() + 1;
        if !last.is_empty() && used + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            let space = if last.is_empty() { "" } else { " " };
            *last += &format!("{space}{word}");
        }
    }
    let named = lines.into_iter().enumerate().map(|(at, line)| {
        let before = if at == 0 { name(called) } else { name("") };
        Text::from(vec![before, Span::raw(line)])
    });
    named.collect()
}

fn draw_letters(frame: &mut Frame<'_>, letters: &[dlq::Row], area: Rect) {
    let rows = usize::from(area.height.saturating_sub(2));
    if letters.is_empty() || rows == 0 {
        return;
    }
    let shown = &letters[..letters.len().min(rows)];
    let mut wanted = LETTERS.map(|(_, least, _)| least);
    wanted[0] = longest(shown.iter().map(|row| &row.letter[..]));
    wanted[4] = longest(shown.iter().map(|row| &row.payload[..]));
    wanted[6] = longest(shown.iter().map(|row| &row.error[..]));
    let widths = columns::fit(&LETTERS, wanted, area.width);
    let cut = |text: &str, column: usize| {
        let room = usize::from(widths[column].unwrap_or(0));
        match text.char_indices().nth(room) {
            Some(_) => text
                .chars()
                .take(room.saturating_sub(1))
                .chain(['…'])
                .collect(),
            None => text.to_owned(),
        }
    };
    let rows = shown.iter().map(|row| {
        let last_worker = row
            .last_worker
            .map_or_else(String::new, |pid| format!("pid {pid}"));
        [
            Cell::new(row.letter.clone()),
            Cell::new(right(&seconds(format::age(row.sent_at).as_secs_f64()), 7)),
            Cell::new(row.reason.clone()),
            Cell::new(right(&row.attempts.to_string(), 8)),
            Cell::new(cut(&row.payload, 4)),
            Cell::new(last_worker),
            Cell::new(cut(&row.error, 6)).style(Style::new().fg(Color::Red)),
        ]
    });
    frame.render_widget(columns::table(&LETTERS, &widths, rows), area);
}
