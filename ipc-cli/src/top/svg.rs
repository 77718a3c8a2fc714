//! Renders a picture of a terminal as SVG, for documents.

use std::fmt::Write as _;

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

const CELL_WIDTH: f64 = 8.4;
const LINE_HEIGHT: u16 = 18;
/// The space around the text.
const MARGIN: u16 = 14;
const PAPER: &str = "#16181d";
const INK: &str = "#d8dee9";

/// The style of a piece of a line.
#[derive(PartialEq)]
struct Style {
    ink: &'static str,
    is_bold: bool,
    is_reversed: bool,
}

/// Returns each row as one line of text, split into pieces of one style.
pub fn svg(picture: &Buffer) -> String {
    let (columns, rows) = (picture.area.width, picture.area.height);
    let width = f64::from(columns) * CELL_WIDTH + 2.0 * f64::from(MARGIN);
    let height = rows * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height}\" \
         width=\"{width:.0}\" height=\"{height}\" font-size=\"14\" \
         font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>\n"
    );
    for y in 0..rows {
        let mut x = 0;
        while x < columns {
            let style = style(picture, x, y);
            let begin = x;
            let mut text = String::new();
            while x < columns && self::style(picture, x, y) == style {
                text.push_str(picture.cell((x, y)).map_or(" ", |cell| cell.symbol()));
                x += 1;
            }
            add_piece(&mut svg, &style, (begin, x, y), &text);
        }
    }
    svg + "</svg>\n"
}

/// Adds the text of the columns from `begin` to `end` of a row.
fn add_piece(svg: &mut String, style: &Style, (begin, end, row): (u16, u16, u16), text: &str) {
    let top = row * LINE_HEIGHT + MARGIN;
    let at = |column: u16| f64::from(column) * CELL_WIDTH + f64::from(MARGIN);
    let (x, length) = (at(begin), at(end) - at(begin));
    if style.is_reversed {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top}\" width=\"{length:.1}\" height=\"{LINE_HEIGHT}\" \
             fill=\"{}\"/>",
            style.ink
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let ink = if style.is_reversed { PAPER } else { style.ink };
    let weight = if style.is_bold {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{}\" textLength=\"{length:.1}\" xml:space=\"preserve\" \
         fill=\"{ink}\"{weight}>{}</text>",
        top + LINE_HEIGHT - 4,
        escaped(text)
    );
}

fn style(picture: &Buffer, x: u16, y: u16) -> Style {
    let (color, modifier) = picture
        .cell((x, y))
        .map_or((Color::Reset, Modifier::empty()), |cell| {
            (cell.fg, cell.modifier)
        });
    let ink = match color {
        Color::Red => "#e06c75",
        Color::Green => "#98c379",
        Color::Yellow => "#e5c07b",
        Color::DarkGray => "#7f848e",
        _ => INK,
    };
    Style {
        ink,
        is_bold: modifier.contains(Modifier::BOLD),
        is_reversed: modifier.contains(Modifier::REVERSED),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
