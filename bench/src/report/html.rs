//! The figures as one page that needs nothing else: tables, and a plot for each work.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Report;
use super::text::figure;
use crate::probe::Distance;
use crate::schedule::Summary;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #ddd}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.yes{color:#187a2f}.no{color:#b3261e}.none{color:#8a6d00}svg{max-width:100%;height:auto}";
const WIDTH: u32 = 900;
const LINE: u32 = 22;
/// Room for the names.
const NAMES: u32 = 240;

pub fn write(report: &Report, file: &Path) -> Result<()> {
    std::fs::write(file, page(report)?).with_context(|| format!("writing {}", file.display()))
}

fn page(report: &Report) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>ipc bench</title><style>{STYLE}</style>\n\
         <h1>Queues beside their peers</h1>\n<p>Medians with the least and the most. Bars: near filled, far \
         lighter; scales are logarithmic.</p>\n"
    );
    if !report.targets.is_empty() {
        page.push_str(&targets(report)?);
    }
    for work in report.works() {
        let rows: Vec<&Summary> = report.rows_of(work).collect();
        writeln!(
            page,
            "<h2>{}</h2>\n{}{}",
            escaped(work),
            plot(&rows)?,
            table(&rows)?
        )?;
    }
    page.push_str("<h2>Notes</h2><ul>\n");
    for (subject, note) in &report.notes {
        writeln!(page, "<li>{}: {}</li>", escaped(subject), escaped(note))?;
    }
    for (what, why) in &report.skipped {
        writeln!(
            page,
            "<li>not measured: {}: {}</li>",
            escaped(what),
            escaped(why)
        )?;
    }
    page.push_str("</ul></html>\n");
    Ok(page)
}

fn targets(report: &Report) -> Result<String> {
    let mut table = String::from(
        "<h2>Targets</h2>\n<table><tr><th></th><th>against</th><th>wanted</th><th>got</th><th>distance</th><th>ok</th></tr>\n",
    );
    for verdict in &report.targets {
        let ok = match (verdict.got, verdict.is_ok()) {
            (None, _) => "none",
            (_, true) => "yes",
            (_, false) => "no",
        };
        let got = verdict.got.map(|(_, ratio)| format!("{ratio:.2}×"));
        let distance = verdict.got.map(|(distance, _)| distance.name());
        writeln!(
            table,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"{ok}\">{ok}</td></tr>",
            escaped(&verdict.work),
            escaped(&verdict.against),
            verdict.wanted.describe(),
            got.unwrap_or_default(),
            distance.unwrap_or_default(),
        )?;
    }
    Ok(table + "</table>\n")
}

fn table(rows: &[&Summary]) -> Result<String> {
    let mut table = String::from(
        "<table><tr><th>subject</th><th>median</th><th>min</th><th>max</th><th>samples</th><th>distance</th><th>placement</th></tr>\n",
    );
    for row in rows {
        write!(table, "<tr><td>{}</td>", escaped(&row.subject))?;
        for value in [row.median, row.min, row.max] {
            write!(table, "<td class=\"n\">{}</td>", figure(value, row.unit))?;
        }
        writeln!(
            table,
            "<td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>",
            row.samples,
            row.distance.name(),
            row.placement.name(),
        )?;
    }
    Ok(table + "</table>\n")
}

/// A bar for each row, and its range.
fn plot(rows: &[&Summary]) -> Result<String> {
    let mut svg = String::new();
    let height = LINE * u32::try_from(rows.len())? + 50;
    draw(rows, SVGBackend::with_string(&mut svg, (WIDTH, height)))
        .map_err(|error| anyhow!("plotting: {error}"))?;
    Ok(svg)
}

fn draw(rows: &[&Summary], backend: SVGBackend<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let least = rows.iter().map(|row| row.min).fold(f64::INFINITY, f64::min);
    let most = rows.iter().map(|row| row.max).fold(0.0, f64::max);
    let (from, to) = ((least / 2.0).max(1e-3), most * 1.5);
    let unit = rows[0].unit;
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .margin_right(30)
        .x_label_area_size(30)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((from..to).log_scale(), 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
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
        let color = if own {
            RGBColor(31, 119, 80)
        } else {
            RGBColor(90, 110, 150)
        };
        let bar = [(from, middle - 0.3), (row.median, middle + 0.3)];
        let range = [(row.min, middle), (row.max, middle)];
        chart.draw_series([Rectangle::new(bar, color.mix(share).filled())])?;
        chart.draw_series([PathElement::new(range, BLACK.stroke_width(1))])?;
        let place = chart.backend_coord(&(from, middle));
        let font = ("sans-serif", 17).into_font().color(&BLACK);
        let font = font.pos(Pos::new(HPos::Right, VPos::Center));
        let mut name = row.subject.clone();
        if row.distance == Distance::Far {
            name.push_str(", far");
        }
        root.draw(&Text::new(name, (place.0 - 6, place.1), font))?;
    }
    root.present()?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
