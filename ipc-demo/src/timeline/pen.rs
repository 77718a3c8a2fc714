//! The signs, words and colours of a timeline.
//!
//! People who confuse red and green can distinguish the colours, and the signs also differ in
//! shape. Sizes of text are estimates: there are no fonts here to measure, only in the viewer.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type DrawError = DrawingAreaErrorKind<io::Error>;
pub(super) type Drawn = Result<(), DrawError>;

pub(super) fn bar(area: &Area, corners: [(i32, i32); 2], colour: &RGBColor) -> Drawn {
    area.draw(&Rectangle::new(corners, colour.filled()))
}

/// Dark on a white rim, to be visible on every ground.
pub(super) fn cross(area: &Area, center: (i32, i32), radius: i32) -> Drawn {
    area.draw(&Cross::new(center, radius + 1, WHITE.stroke_width(5)))?;
    area.draw(&Cross::new(center, radius, INK.stroke_width(2)))
}

/// Points down, at `tip`.
pub(super) fn arrow(area: &Area, tip: (i32, i32), radius: i32) -> Drawn {
    let (x, y) = tip;
    let corners = [
        (x - radius, y - 2 * radius),
        (x + radius, y - 2 * radius),
        tip,
    ];
    area.draw(&Polygon::new(corners, REDELIVERED))
}

/// In the viewer's sans-serif; `anchor` is the part of the words that is placed.
pub(super) fn font(size: f64, colour: &'static RGBColor, anchor: HPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font())
        .color(colour)
        .pos(Pos::new(anchor, VPos::Center))
}

pub(super) fn words(area: &Area, at: (i32, i32), font: &TextStyle, words: &str) -> Drawn {
    // XML has no way to write most control characters.
    let writable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let words: String = words.chars().map(writable).collect();
    area.draw_text(&words, font, at)
}

/// An estimate of its width in the viewer. plotters makes letters smaller than the size it is
/// given.
pub(super) fn width_of(words: &str, size: f64) -> i32 {
    (words.chars().count() as f64 * size / 1.24 * 0.58).ceil() as i32
}

/// At most `max` characters, the middle left out: names tend to differ at their ends.
pub(super) fn shortened(name: &str, max: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= max {
        return name.to_owned();
    }
    let (head, tail) = (&chars[..max / 2 - 1], &chars[chars.len() - max / 2..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

pub(super) const ACKED: RGBColor = RGBColor(0x3b, 0x76, 0xaf);
pub(super) const LOST: RGBColor = RGBColor(0xe0, 0x5a, 0x33);
pub(super) const REDELIVERED: RGBColor = RGBColor(0x8a, 0x3f, 0xa0);
pub(super) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(super) const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x7b);
pub(super) const GRID: RGBColor = RGBColor(0xd9, 0xdd, 0xe2);
pub(super) const STRIPE: RGBColor = RGBColor(0xf3, 0xf5, 0xf8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_in_the_middle() {
        assert_eq!(shortened("worker-1", 18), "worker-1");
        let name = shortened("a-very-long-name-of-worker-17", 18);
        assert_eq!(
            (name.as_str(), name.chars().count()),
            ("a-very-l…worker-17", 18)
        );
    }
}
