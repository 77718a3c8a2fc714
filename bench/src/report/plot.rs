//! Plots as SVG: bars for different kinds, lines for growing numbers.

use std::collections::BTreeMap;
use std::num::ParseFloatError;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::text::figure;
use crate::own::SCALE;
use crate::probe::Distance;
use crate::schedule::Summary;
use crate::work::Unit;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
const LINE: u32 = 22;
/// The width of the names.
const NAMES: u32 = 240;
const LINES_HEIGHT: u32 = 350;
/// The height of a name beside a line.
const NAME_HEIGHT: i32 = 17;
/// The part of the width for values, compared with the longest bar.
const VALUES: f64 = 0.16;
const OURS: RGBColor = RGBColor(31, 119, 80);
const OTHERS: RGBColor = RGBColor(90, 110, 150);

type Series<'r> = BTreeMap<&'r str, Vec<(f64, &'r Summary)>>;

/// Draws the plot of one work.
pub fn svg(work: &str, rows: &[&Summary]) -> Result<String> {
    let mut svg = String::new();
    let drawn = if let Some(what) = work.strip_prefix(SCALE) {
        lines(
            what,
            rows,
            SVGBackend::with_string(&mut svg, (WIDTH, LINES_HEIGHT)),
        )
    } else {
        let height = LINE * u32::try_from(rows.len())? + 90;
        bars(
            work,
            rows,
            SVGBackend::with_string(&mut svg, (WIDTH, height)),
        )
    };
    drawn.map_err(|error| anyhow!("plotting: {error}"))?;
    Ok(svg)
}

/// Returns the title of a plot: what is measured, and which values are good.
fn title(what: &str, unit: Unit) -> String {
    let (dimension, better) = dimension(unit);
    format!("{what}: {dimension}, {better} is better")
}

fn dimension(unit: Unit) -> (&'static str, &'static str) {
    match unit {
        Unit::MessagesPerSecond => ("messages a second", "more"),
        Unit::Nanoseconds => ("time", "less"),
        other => (other.name(), "more"),
    }
}

/// Draws a line for each subject, over the number at the end of its name. The range is a vertical
/// line.
fn lines(
    what: &str,
    rows: &[&Summary],
    backend: SVGBackend<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let series = series_of(rows)?;
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let (number, unit) = (what.trim_start_matches(", "), rows[0].unit);
    let root = root.titled(
        &title(&format!("{SCALE}, by {number}"), unit),
        ("sans-serif", 17),
    )?;
    let numbers = series.values().flatten().map(|(number, _)| *number);
    let top = top_of(rows);
    // A logarithmic axis with a place for zero.
    let place = |number: f64| number.max(0.5).log10();
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(30)
        .x_label_area_size(45)
        .y_label_area_size(60)
        .build_cartesian_2d(
            place(0.0)..place(numbers.fold(1.0, f64::max)) * 1.02,
            0.0..top,
        )?;
    let label = |place: &f64| format!("{:.0}", 10f64.powf(*place));
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
        .x_desc(format!(
            "{number}, logarithmic (point: median, line: least to most)"
        ))
        .x_label_formatter(&label)
        .y_label_formatter(&|value| figure(*value, unit))
        .draw()?;
    let mut names: Vec<(&str, i32, i32, RGBColor)> = Vec::new();
    for (subject, points) in &series {
        let color = if *subject == "shm" { OURS } else { OTHERS };
        let mut line = points
            .iter()
            .map(|(number, row)| (place(*number), row.median));
        let whole: Vec<_> = line.clone().collect();
        chart.draw_series([PathElement::new(whole, color.stroke_width(2))])?;
        chart.draw_series(line.clone().map(|at| Circle::new(at, 3, color.filled())))?;
        for (number, row) in points {
            let range = [row.min, row.max.min(top)].map(|value| (place(*number), value));
            chart.draw_series([PathElement::new(range, color.stroke_width(1))])?;
        }
        let Some(last) = line.next_back() else {
            continue;
        };
        let (right, bottom) = chart.backend_coord(&last);
        names.push((subject, right - 4, bottom - 6, color));
    }
    draw_names(&root, names)?;
    root.present()?;
    Ok(())
}

/// Returns the upper end of the axis. Disturbed values are cut at the edge, so that the others
/// remain readable.
fn top_of(rows: &[&Summary]) -> f64 {
    let most = rows.iter().map(|row| row.max).fold(0.0, f64::max);
    let highest = rows.iter().map(|row| row.median).fold(0.0, f64::max);
    most.min(3.0 * highest) * 1.05
}

/// Draws the names of lines, each with its right and bottom end and its colour.
fn draw_names(
    root: &Area<'_>,
    mut names: Vec<(&str, i32, i32, RGBColor)>,
) -> Result<(), Box<dyn std::error::Error>> {
    // From the top: a name that would cover the one above it goes below that.
    names.sort_by_key(|(_, _, bottom, _)| *bottom);
    let mut least = 0;
    for (name, right, bottom, color) in names {
        let bottom = bottom.max(least);
        least = bottom + NAME_HEIGHT;
        let font = ("sans-serif", 16).into_font().color(&color);
        let font = font.pos(Pos::new(HPos::Right, VPos::Bottom));
        let place = root_place(root, (right, bottom));
        root.draw(&Text::new(name.to_owned(), place, font))?;
    }
    Ok(())
}

/// Returns the place, within the area below the title, of one in the whole picture.
fn root_place(root: &Area<'_>, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = root.get_base_pixel();
    (x - left, y - top)
}

/// The values of each subject, with the number at the end of its name.
fn series_of<'r>(rows: &[&'r Summary]) -> Result<Series<'r>, ParseFloatError> {
    let mut series = Series::new();
    for row in rows {
        if let Some((subject, number)) = row.subject.rsplit_once(", ") {
            let points = series.entry(subject).or_default();
            points.push((number.parse()?, *row));
        }
    }
    Ok(series)
}

/// Draws a bar for each row, with its range.
fn bars(
    work: &str,
    rows: &[&Summary],
    backend: SVGBackend<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let unit = rows[0].unit;
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(&title(work, unit), ("sans-serif", 17))?;
    let least = rows.iter().map(|row| row.min).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.max).fold(0.0, f64::max);
    let from = (least / 2.0).max(1e-3);
    // A part of the width is for the values beside the bars.
    let to = most * (most / from).powf(VALUES);
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(30)
        .x_label_area_size(45)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((from..to).log_scale(), 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
        .x_desc(format!(
            "{}, logarithmic (bar: median, line: least to most)",
            dimension(unit).0
        ))
        .x_label_formatter(&|value| figure(*value, unit))
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        let middle = (rows.len() - index) as f64 - 0.5;
        let share = if row.distance == Distance::Far {
            0.35
        } else {
            0.85
        };
        let own = row.subject.starts_with("shm");
        let color = if own { OURS } else { OTHERS };
        let bar = [(from, middle - 0.3), (row.median, middle + 0.3)];
        let range = [(row.min, middle), (row.max, middle)];
        chart.draw_series([Rectangle::new(bar, color.mix(share).filled())])?;
        chart.draw_series([PathElement::new(range, BLACK.stroke_width(1))])?;
        let (left, at) = chart.backend_coord(&(from, middle));
        let mut name = row.subject.clone();
        if row.distance == Distance::Far {
            name.push_str(", far");
        }
        write_beside(&root, (left - 6, at), HPos::Right, 17, name)?;
        let (right, at) = chart.backend_coord(&(row.max, middle));
        let value = figure(row.median, unit);
        write_beside(&root, (right + 6, at), HPos::Left, 15, value)?;
    }
    root.present()?;
    Ok(())
}

/// Writes a text that begins or ends at a place, in the middle of its height.
fn write_beside(
    root: &Area<'_>,
    place: (i32, i32),
    side: HPos,
    size: i32,
    text: String,
) -> Result<(), Box<dyn std::error::Error>> {
    let font = ("sans-serif", size).into_font().color(&BLACK);
    let font = font.pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(text, root_place(root, place), font))?;
    Ok(())
}
