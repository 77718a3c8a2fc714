//! The figures for programs.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Report;
use super::targets::Verdict;
use crate::schedule::Summary;

pub fn write(report: &Report, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&value(report))?;
    std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
}

fn value(report: &Report) -> Value {
    let skipped = |(what, why): &(String, String)| json!({"what": what, "why": why});
    let note = |(subject, note): &(String, &str)| json!({"subject": subject, "note": note});
    let fact = |(what, which): &(String, String)| json!({"what": what, "which": which});
    json!({
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "targets": report.targets.iter().map(target).collect::<Vec<_>>(),
        "machine": report.machine.iter().map(fact).collect::<Vec<_>>(),
        "notes": report.notes.iter().map(note).collect::<Vec<_>>(),
        "skipped": report.skipped.iter().map(skipped).collect::<Vec<_>>(),
    })
}

fn row(row: &Summary) -> Value {
    json!({
        "work": row.work,
        "subject": row.subject,
        "placement": row.placement.name(),
        "distance": row.distance.name(),
        "unit": row.unit.name(),
        "median": row.median,
        "min": row.min,
        "max": row.max,
        "samples": row.samples,
    })
}

fn target(verdict: &Verdict) -> Value {
    json!({
        "work": verdict.work,
        "against": verdict.against,
        "wanted": verdict.wanted.ratio(),
        "got": verdict.got.map(|(_, ratio)| ratio),
        "ok": verdict.is_ok(),
    })
}
