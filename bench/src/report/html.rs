//! The figures as one self-contained page: tables, and a plot for each work.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::text::figure;
use super::{Report, plot};
use crate::schedule::Summary;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #ddd}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.yes{color:#187a2f}.no{color:#b3261e}.none{color:#8a6d00}svg{max-width:100%;height:auto}";

pub fn write(report: &Report, file: &Path) -> Result<()> {
    std::fs::write(file, page(report)?).with_context(|| format!("writing {}", file.display()))
}

fn page(report: &Report) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>ipc bench</title><style>{STYLE}</style>\n\
         <h1>Queues beside their peers</h1>\n<p>Medians with the least and the most. Bars: near filled, far \
         lighter; scales are logarithmic.</p>\n"
    );
    page.push_str("<ul>\n");
    for (what, which) in &report.machine {
        writeln!(page, "<li>{}: {}</li>", escaped(what), escaped(which))?;
    }
    page.push_str("</ul>\n");
    if !report.targets.is_empty() {
        page.push_str(&targets(report)?);
    }
    for work in report.works() {
        let rows: Vec<&Summary> = report.rows_of(work).collect();
        writeln!(
            page,
            "<h2>{}</h2>\n{}{}",
            escaped(work),
            plot::svg(work, &rows)?,
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
