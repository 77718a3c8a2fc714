//! Tables that fit a width: a narrow terminal shows fewer columns, a wide one longer names.

use ratatui::layout::Constraint;
use ratatui::style::{Color, Style};
use ratatui::widgets::{Cell, Row, Table};

/// A column: its title, its least width and its rank. A narrow terminal shows fewer columns, by
/// rank, instead of truncating all of them.
pub type Column = (&'static str, u16, u8);

/// The widths of the columns that are shown; `None` for the others.
pub type Widths<const N: usize> = [Option<u16>; N];

/// Chooses the columns that fit, the most important first. What is left goes to those that want
/// more than their least width, again the most important first.
pub fn fit<const N: usize>(columns: &[Column; N], wanted: [u16; N], width: u16) -> Widths<N> {
    let mut by_rank: [usize; N] = std::array::from_fn(|at| at);
    by_rank.sort_by_key(|at| columns[*at].2);
    let mut widths = [None; N];
    // The last column needs no space after it.
    let mut left = width.saturating_add(1);
    for at in by_rank {
        // The width includes the space before the next column.
        let Some(rest) = left.checked_sub(columns[at].1 + 1) else {
            break;
        };
        (widths[at], left) = (Some(columns[at].1), rest);
    }
    for at in by_rank {
        if let Some(least) = &mut widths[at] {
            let more = wanted[at].saturating_sub(*least).min(left);
            *least += more;
            left -= more;
        }
    }
    // At least one column is shown.
    if widths.iter().all(Option::is_none) {
        widths[by_rank[0]] = Some(width);
    }
    widths
}

/// Returns a table of the columns that are shown.
pub fn table<'a, const N: usize>(
    columns: &[Column; N],
    widths: &Widths<N>,
    rows: impl Iterator<Item = [Cell<'a>; N]>,
) -> Table<'a> {
    let of = |cells: [Cell<'a>; N]| {
        let shown = cells
            .into_iter()
            .zip(widths)
            .filter(|(_, width)| width.is_some());
        Row::new(shown.map(|(cell, _)| cell).collect::<Vec<_>>())
    };
    let titles = columns.each_ref().map(|(title, ..)| Cell::new(*title));
    let header = of(titles)
        .style(Style::new().fg(Color::DarkGray))
        .top_margin(1);
    let shown = widths.iter().flatten().copied().map(Constraint::Length);
    Table::new(rows.map(of), shown.collect::<Vec<_>>()).header(header)
}

/// Returns the number of characters of the longest text.
pub fn longest<'t>(texts: impl Iterator<Item = &'t str>) -> u16 {
    let longest = texts.map(|text| text.chars().count()).max();
    u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [("NAME", 10, 0), ("READY", 6, 1), ("PROCS", 6, 2)];

    #[test]
    fn the_least_important_columns_are_left_out_and_the_rest_goes_to_the_most_important() {
        let fit = |width| fit(&COLUMNS, [20, 6, 8], width);
        assert_eq!(fit(5), [Some(5), None, None]);
        assert_eq!(fit(16), [Some(16), None, None]);
        assert_eq!(fit(17), [Some(10), Some(6), None]);
        assert_eq!(fit(18), [Some(11), Some(6), None]);
        assert_eq!(fit(30), [Some(16), Some(6), Some(6)]);
        assert_eq!(fit(100), [Some(20), Some(6), Some(8)]);
    }
}
