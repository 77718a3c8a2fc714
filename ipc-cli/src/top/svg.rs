//! Renders a picture of a terminal as SVG, for documents.

use std::fmt::Write as _;

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

const CELL_WIDTH: f64 = 8.4;
const LINE_HEIGHT: u16 = 18;

/// Returns each row as one line of text, split into pieces of one style.
pub fn svg(picture: &Buffer) -> String {
    let (columns, rows) = (picture.area.width, picture.area.height);
    let (width, height) = (
        f64::from(columns) * CELL_WIDTH + 24.0,
        rows * LINE_HEIGHT + 24,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\" font-family=\"monospace\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>\n"
    );
    for y in 0..rows {
        let baseline = y * LINE_HEIGHT + 26;
        let mut x = 0;
        while x < columns {
            let style = style(picture, x, y);
            let begin = x;
            let mut text = String::new();
            while x < columns && self::style(picture, x, y) == style {
                text.push_str(picture.cell((x, y)).map_or(" ", |cell| cell.symbol()));
                x += 1;
            }
            if text.trim().is_empty() {
                continue;
            }
            let (at, length) = (
                f64::from(begin) * CELL_WIDTH + 12.0,
                f64::from(x - begin) * CELL_WIDTH,
            );
            let weight = if style.1 { " font-weight=\"bold\"" } else { "" };
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{baseline}\" textLength=\"{length:.1}\" xml:space=\"preserve\" fill=\"{}\"{weight}>{}</text>",
                style.0,
                escaped(&text)
            );
        }
    }
    svg + "</svg>\n"
}

fn style(picture: &Buffer, x: u16, y: u16) -> (&'static str, bool) {
    let Some(cell) = picture.cell((x, y)) else {
        return ("#d8dee9", false);
    };
    let color = match cell.fg {
        Color::Red => "#e06c75",
        Color::Green => "#98c379",
        Color::Yellow => "#e5c07b",
        Color::DarkGray => "#7f848e",
        _ => "#d8dee9",
    };
    (color, cell.modifier.contains(Modifier::BOLD))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
