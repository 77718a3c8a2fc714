//! The results of a run, and the forms of their presentation.

pub mod docs;
pub mod html;
pub mod json;
mod plot;
pub mod targets;
pub mod text;

use crate::player::Player;
use crate::schedule::{Plan, Row, Summary};
use targets::Verdict;

/// The contents of a report.
#[derive(Debug)]
pub struct Report {
    pub rows: Vec<Summary>,
    pub targets: Vec<Verdict>,
    /// The machine and the software versions.
    pub machine: Vec<(String, String)>,
    /// Subjects and their limitations, once each.
    pub notes: Vec<(String, &'static str)>,
    /// The measurements that were skipped, and why.
    pub skipped: Vec<(String, String)>,
}

impl Report {
    pub fn of(
        rows: &[Row<'_>],
        plan: &Plan,
        others: Vec<Summary>,
        players: &[Box<dyn Player>],
    ) -> Self {
        let players = || players.iter().map(AsRef::as_ref);
        let took_part =
            |player: &&dyn Player| rows.iter().any(|row| row.player.name() == player.name());
        let note = |player: &dyn Player| (player.name(), player.note());
        let mut skipped: Vec<_> = players()
            .filter_map(|player| player.missing().map(|why| (player.name(), why)))
            .collect();
        skipped.extend(rows.iter().filter_map(|row| {
            let last = row.failures().last().filter(|_| row.failure().is_none())?;
            let what = format!(
                "{} repetitions of {}, {}",
                row.failures().len(),
                row.work.title(row.placement),
                row.player.name()
            );
            Some((what, last.clone()))
        }));
        skipped.extend(rows.iter().filter_map(|row| {
            let why = row.failure()?;
            Some((
                format!("{}, {}", row.work.title(row.placement), row.player.name()),
                why.to_owned(),
            ))
        }));
        let mut notes: Vec<_> = players().filter(took_part).map(note).collect();
        notes.retain(|(_, note)| !note.is_empty());
        notes.dedup();
        let mut summaries: Vec<_> = rows.iter().flat_map(|row| row.summaries(plan)).collect();
        summaries.extend(others);
        Self {
            targets: targets::judge(&summaries),
            rows: summaries,
            machine: Vec::new(),
            notes,
            skipped,
        }
    }
}

impl Report {
    /// Returns the works that were done, in order.
    pub fn works(&self) -> Vec<&str> {
        let mut works: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !works.contains(&&row.work[..]) {
                works.push(&row.work);
            }
        }
        works
    }

    /// Returns the rows of a work.
    pub fn rows_of<'a>(&'a self, work: &'a str) -> impl Iterator<Item = &'a Summary> {
        self.rows.iter().filter(move |row| row.work == work)
    }
}
