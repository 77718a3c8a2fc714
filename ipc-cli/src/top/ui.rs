//! The choices of the user of `top`: sort order, filter, a queue, an action.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::watch::{Line, View};
use crate::action::Action;
use crate::exit;
use crate::format::shortened;

#[derive(Debug, Default)]
pub struct Ui {
    /// `true` if there is a user to press keys.
    pub is_live: bool,
    pub sort: Sort,
    pub filter: String,
    pub is_typing: bool,
    /// The row of the selected queue.
    pub selected: usize,
    /// The queue that is shown alone, if any.
    pub chosen: Option<String>,
    /// The question to confirm before an action.
    pub question: Option<Question>,
    /// The number of queues and namespaces that can't be read.
    pub unreadable: usize,
    /// The result of the last action.
    pub said: String,
}

/// The sort order of queues: by name, or the largest value first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Name,
    Ready,
    Held,
    Dead,
    Oldest,
    Rate,
}

#[derive(Clone, Debug)]
pub struct Question {
    action: Action,
    queue: String,
}

/// The request behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    End,
    Redraw,
}

impl Sort {
    const ALL: [Self; 6] = [
        Self::Name,
        Self::Ready,
        Self::Held,
        Self::Dead,
        Self::Oldest,
        Self::Rate,
    ];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self);
        Self::ALL[(at.unwrap_or(0) + 1) % Self::ALL.len()]
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Ready => "ready",
            Self::Held => "held",
            Self::Dead => "dead letters",
            Self::Oldest => "age",
            Self::Rate => "rate",
        }
    }

    fn key(self, line: &Line) -> f64 {
        match self {
            Self::Name => 0.0,
            Self::Ready => line.ready as f64,
            Self::Held => line.held as f64,
            Self::Dead => line.dead as f64,
            Self::Oldest => line.oldest_seconds.unwrap_or(-1.0),
            Self::Rate => line.acked_per_second.unwrap_or(-1.0),
        }
    }
}

impl Question {
    pub fn in_words(&self) -> String {
        let queue = shortened(&self.queue, 40);
        match self.action {
            Action::Pause => format!("pause {queue}?"),
            Action::Resume => format!("resume {queue}?"),
            Action::Requeue => format!("requeue all dead letters of {queue}?"),
            Action::Drain => format!("close {queue}, so that it drains?"),
        }
    }
}

impl Ui {
    /// The queues to show, in order.
    pub fn shown<'v>(&mut self, view: &'v View) -> Vec<&'v Line> {
        let wanted = |line: &&Line| line.queue.contains(&self.filter);
        let mut queues: Vec<_> = view.queues.iter().filter(wanted).collect();
        // The sort is stable: equal queues stay in the order of their names.
        queues.sort_by(|one, other| self.sort.key(other).total_cmp(&self.sort.key(one)));
        self.selected = self.selected.min(queues.len().saturating_sub(1));
        queues
    }

    pub fn press(&mut self, key: KeyEvent, view: &View) -> Asked {
        if key.modifiers == KeyModifiers::CONTROL && key.code == KeyCode::Char('c') {
            return Asked::End;
        }
        self.said.clear();
        if let Some(question) = self.question.take() {
            if key.code == KeyCode::Char('y') {
                let done = question.action.act(&question.queue);
                self.said = done.unwrap_or_else(|error| exit::in_one_line(&error));
            }
            return Asked::Redraw;
        }
        if self.is_typing {
            self.type_filter(key.code);
            return Asked::Redraw;
        }
        let queues: Vec<_> = self.shown(view).into_iter().cloned().collect();
        match key.code {
            KeyCode::Char('q') => return Asked::End,
            KeyCode::Esc if self.chosen.is_none() && self.filter.is_empty() => return Asked::End,
            KeyCode::Esc if self.chosen.is_none() => self.filter.clear(),
            KeyCode::Esc | KeyCode::Left => self.chosen = None,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Down | KeyCode::Char('j') => self.selected += 1,
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::Enter | KeyCode::Right => {
                self.chosen = queues.get(self.selected).map(|line| line.queue.clone());
            }
            KeyCode::Char(letter @ ('p' | 'r' | 'd')) => self.ask(letter, &queues),
            _ => {}
        }
        Asked::Redraw
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Enter => self.is_typing = false,
            _ => {}
        }
    }

    /// Asks about the queue that is shown alone, or else the selected one.
    fn ask(&mut self, letter: char, queues: &[Line]) {
        let line = match &self.chosen {
            Some(name) => queues.iter().find(|line| line.queue == *name),
            None => queues.get(self.selected),
        };
        let Some(line) = line else { return };
        let action = match letter {
            'p' if line.state.contains("paused") => Action::Resume,
            'p' => Action::Pause,
            'r' => Action::Requeue,
            _ => Action::Drain,
        };
        self.question = Some(Question {
            action,
            queue: line.queue.clone(),
        });
    }
}
