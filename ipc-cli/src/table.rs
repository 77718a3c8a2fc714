//! Tables that fit the terminal. If there is not enough room, the least important columns are left
//! out.

use std::fmt;
use std::io::{self, IsTerminal};

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table as Cells,
};

use crate::terminal;

/// A column: its title and its rank. Rank 0 is never left out; rank 9 is left out first. A title
/// that begins with `#` marks a column of numbers.
pub type Column = (&'static str, u8);

pub struct Table {
    cells: Cells,
    columns: Vec<Column>,
    colors: bool,
}

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        let colors = terminal::wants_colors(io::stdout().is_terminal());
        let bold = |title: &str| {
            let cell = Cell::new(title.trim_start_matches('#'));
            if colors {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            }
        };
        let mut cells = Cells::new();
        cells
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(columns.iter().map(|(title, _)| bold(title)));
        for (index, (title, _)) in columns.iter().enumerate() {
            if title.starts_with('#')
                && let Some(column) = cells.column_mut(index)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self {
            cells,
            columns: columns.to_vec(),
            colors,
        }
    }

    pub fn add(&mut self, row: Vec<Text>) {
        let colors = self.colors;
        let cells = row.into_iter().map(|text| {
            let cell = Cell::new(text.text);
            match text.color {
                Some(color) if colors => cell.fg(color),
                _ => cell,
            }
        });
        self.cells.add_row(cells.collect::<Vec<_>>());
    }

    /// Returns the table for a width, or the full table if there is no width.
    fn fit(&self, width: Option<u16>) -> Cells {
        let mut cells = self.cells.clone();
        let Some(width) = width else {
            return cells;
        };
        cells.set_width(width);
        let needed: Vec<_> = cells.column_max_content_widths();
        let mut by_rank: Vec<_> = (0..self.columns.len()).collect();
        by_rank.sort_by_key(|index| self.columns[*index].1);
        let mut left = u32::from(width);
        let mut is_full = false;
        for index in by_rank {
            // Each column has a blank on either side.
            let wide = u32::from(needed.get(index).copied().unwrap_or_default()) + 2;
            is_full |= wide > left && self.columns[index].1 > 0;
            left = left.saturating_sub(wide);
            if is_full && let Some(column) = cells.column_mut(index) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
        cells
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fit(self.cells.width()).fmt(f)
    }
}

/// The content of a cell.
pub struct Text {
    text: String,
    color: Option<Color>,
}

/// Text without a color.
pub fn plain(text: impl ToString) -> Text {
    Text {
        text: text.to_string(),
        color: None,
    }
}

pub fn colored(text: impl ToString, color: Color) -> Text {
    Text {
        text: text.to_string(),
        color: Some(color),
    }
}

/// A count that should be zero.
pub fn bad_count(number: u64) -> Text {
    match number {
        0 => plain(number),
        _ => colored(number, Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("queue", 0), ("type", 5), ("#ready", 1), ("#processes", 9)]);
        for (name, ready) in [("media/resize", "120"), ("mail", "7")] {
            table.add([name, "bytes", ready, "3"].map(plain).into());
        }
        table
    }

    #[test]
    fn the_least_important_columns_are_left_out_first() {
        let narrow = table().fit(Some(24)).to_string();
        for word in ["media/resize", "120", "ready", "mail"] {
            assert!(narrow.contains(word), "no {word} in\n{narrow}");
        }
        assert!(
            !narrow.contains("proc") && !narrow.contains("type"),
            "{narrow}"
        );
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 24),
            "{narrow}"
        );
        assert_eq!(narrow.lines().count(), 3);
    }

    #[test]
    fn nothing_is_left_out_where_there_is_room_or_no_terminal() {
        for width in [Some(80), None] {
            let wide = table().fit(width).to_string();
            assert!(
                wide.contains("processes") && wide.contains("type"),
                "{wide}"
            );
        }
    }
}
