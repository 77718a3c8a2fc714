//! The figures for the documentation: the text between two marks of `performance.md` is rewritten,
//! with plots beside it.
//!
//! A mark is `<!-- bench: NAME -->`, and the end is `<!-- end -->`. `BLOCKS` lists the contents of
//! each.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::text::figure;
use super::{Report, plot};
use crate::own::SCALE;
use crate::schedule::Summary;

/// One part of the document.
struct Block {
    name: &'static str,
    /// The prefixes of its works.
    works: &'static [&'static str],
    plots: Plots,
}

#[derive(PartialEq, Eq)]
enum Plots {
    Drawn,
    Left,
}

const DOCUMENT: &str = "performance.md";
const FOLDER: &str = "performance";
const END: &str = "<!-- end -->";
const BLOCKS: [Block; 10] = [
    Block::of("one-way", &["1→", "2→"], Plots::Drawn),
    Block::of("round-trips", &["round trip"], Plots::Drawn),
    Block::of("opening", &["open ", "create "], Plots::Drawn),
    Block::of("alone", &["alone"], Plots::Drawn),
    Block::of("sockets", &["socket: "], Plots::Left),
    Block::of("scale", &[SCALE], Plots::Drawn),
    Block::of("idle", &["idle"], Plots::Left),
    Block::of("memory", &["peak memory"], Plots::Left),
    Block::of("crashes", &["recovery", "kill storm"], Plots::Left),
    Block::of("weight", &["crates", "compiling"], Plots::Left),
];

impl Block {
    const fn of(name: &'static str, works: &'static [&'static str], plots: Plots) -> Self {
        Self { name, works, plots }
    }

    fn holds(&self, work: &str) -> bool {
        self.works.iter().any(|begin| work.starts_with(begin))
    }
}

/// Writes into the folder of the document.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    let file = folder.join(DOCUMENT);
    let mut text =
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    fill(&mut text, "machine", &machine(report)?)?;
    if !report.targets.is_empty() {
        fill(&mut text, "targets", &targets(report)?)?;
    }
    fs::create_dir_all(folder.join(FOLDER))?;
    // A block without new measurements stays unchanged.
    let measured = |block: &&Block| report.works().iter().any(|work| block.holds(work));
    for block in BLOCKS.iter().filter(measured) {
        fill(&mut text, block.name, &works(report, block, folder)?)?;
    }
    fill(&mut text, "notes", &notes(report)?)?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// Puts `content` between the marks of `name`.
fn fill(text: &mut String, name: &str, content: &str) -> Result<()> {
    let mark = format!("<!-- bench: {name} -->");
    let begin = text
        .find(&mark)
        .with_context(|| format!("no {mark} in {DOCUMENT}"))?
        + mark.len();
    let len = text[begin..]
        .find(END)
        .with_context(|| format!("no {END} after {mark}"))?;
    ensure!(
        !text[begin..begin + len].contains("<!-- bench:"),
        "{mark} has no {END} of its own"
    );
    text.replace_range(begin..begin + len, &format!("\n\n{content}\n"));
    Ok(())
}

fn machine(report: &Report) -> Result<String> {
    let mut list = String::from("| | |\n|---|---|\n");
    for (what, which) in &report.machine {
        writeln!(list, "| {what} | {which} |")?;
    }
    Ok(list)
}

fn targets(report: &Report) -> Result<String> {
    let mut table = String::from(
        "| what | against | wanted | got | distance | |\n|---|---|---|---:|---|---|\n",
    );
    for verdict in &report.targets {
        let ok = match (verdict.got, verdict.is_ok()) {
            (None, _) => "not measured",
            (_, true) => "yes",
            (_, false) => "**no**",
        };
        let got = verdict.got.map(|(_, ratio)| format!("{ratio:.2}×"));
        let distance = verdict.got.map(|(distance, _)| distance.name());
        writeln!(
            table,
            "| {} | {} | {} | {} | {} | {ok} |",
            verdict.work,
            verdict.against,
            verdict.wanted.describe(),
            got.unwrap_or_default(),
            distance.unwrap_or_default(),
        )?;
    }
    Ok(table)
}

fn works(report: &Report, block: &Block, folder: &Path) -> Result<String> {
    let mut text = String::new();
    for work in report.works().into_iter().filter(|work| block.holds(work)) {
        let rows: Vec<&Summary> = report.rows_of(work).collect();
        writeln!(text, "**{work}**\n")?;
        if block.plots == Plots::Drawn {
            let name = format!("{}.svg", slug(work));
            fs::write(folder.join(FOLDER).join(&name), plot::svg(work, &rows)?)?;
            writeln!(text, "![{work}]({FOLDER}/{name})\n")?;
        }
        writeln!(text, "{}", table(&rows)?)?;
    }
    Ok(text.trim_end().to_owned() + "\n")
}

fn table(rows: &[&Summary]) -> Result<String> {
    let mut table = String::from(
        "| subject | median | min – max | samples | distance | placement |\n|---|---:|---|---:|---|---|\n",
    );
    for row in rows {
        let [median, min, max] = [row.median, row.min, row.max].map(|it| figure(it, row.unit));
        writeln!(
            table,
            "| {} | {median} | {min} – {max} | {} | {} | {} |",
            row.subject,
            row.samples,
            row.distance.name(),
            row.placement.name(),
        )?;
    }
    Ok(table)
}

fn notes(report: &Report) -> Result<String> {
    let mut list = String::new();
    for (subject, note) in &report.notes {
        writeln!(list, "- {subject}: {note}")?;
    }
    for (what, why) in &report.skipped {
        let why = why.lines().next().unwrap_or_default();
        writeln!(list, "- not measured: {what}: {why}")?;
    }
    Ok(list)
}

/// Returns the file name of a work.
fn slug(work: &str) -> String {
    let words: String = work
        .replace('→', " to ")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' })
        .collect();
    words
        .split_whitespace()
        .collect::<Vec<_>>()
        .join("-")
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_marks_is_rewritten() {
        let mut text = "a\n<!-- bench: x -->\nold\n<!-- end -->\nb".to_owned();
        fill(&mut text, "x", "new\n").unwrap();
        fill(&mut text, "x", "newer\n").unwrap();
        assert_eq!(text, "a\n<!-- bench: x -->\n\nnewer\n\n<!-- end -->\nb");
        fill(&mut text, "y", "").unwrap_err();
    }

    #[test]
    fn a_works_plot_has_a_name_of_its_own() {
        assert_eq!(slug("1→1 64 KiB"), "1-to-1-64-kib");
    }
}
