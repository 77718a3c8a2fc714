//! The figures for the documentation: the text between two marks of `performance.md` and
//! `scaling.md` is rewritten, with plots beside it, and the rates in the readme.
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
use crate::own::footprint::FOOTPRINT;
use crate::own::silence::SILENCE;
use crate::schedule::{CPU, PLACED, Summary};
use crate::work::Placement;

/// One part of the document.
struct Block {
    name: &'static str,
    /// The prefixes of its works.
    works: &'static [&'static str],
    placement: Placed,
    form: Form,
}

/// The placements in a block.
#[derive(PartialEq, Eq)]
enum Placed {
    /// The kernel placed the sides of a work that is usually pinned.
    Freely,
    /// All others.
    Otherwise,
}

/// The form of a block.
#[derive(PartialEq, Eq)]
enum Form {
    /// A plot and a table for each work.
    Plots,
    /// A table for each work.
    Tables,
    /// One table, with a column for each work.
    Columns,
    /// One table with the lines of `TRANSPORT_LINES`, and a column for each of `TRANSPORTS`.
    Transports,
}

/// Each block is in one of them.
const DOCUMENTS: [&str; 2] = ["performance.md", "scaling.md"];
const FOLDER: &str = "performance";
const END: &str = "<!-- end -->";
const BLOCKS: [Block; 18] = [
    Block::freely("defaults", &["1→", "round trip"], Form::Plots),
    Block::of("placement", &[PLACED], Form::Columns),
    Block::of("one-way", &["1→", "2→", "4→"], Form::Plots),
    Block::of("shares", &["smallest share"], Form::Tables),
    Block::of("round-trips", &["round trip"], Form::Plots),
    Block::of("opening", &["open ", "create "], Form::Plots),
    Block::of("alone", &["alone"], Form::Plots),
    Block::of("receivers", &["many "], Form::Tables),
    Block::of("transports", &[], Form::Transports),
    Block::of("cpu", &[CPU], Form::Tables),
    Block::of("silence", &[SILENCE], Form::Tables),
    Block::of("footprint", &[FOOTPRINT], Form::Tables),
    Block::of("sockets", &["socket: "], Form::Tables),
    Block::of("scale", &[SCALE], Form::Plots),
    Block::of("idle", &["idle"], Form::Tables),
    Block::of("memory", &["peak memory"], Form::Tables),
    Block::of("crashes", &["recovery", "kill storm"], Form::Tables),
    Block::of("weight", &["crates", "compiling"], Form::Tables),
];

/// The subjects of the table of transports.
const TRANSPORTS: [&str; 5] = ["shm", "unix", "nats", "nats on disk", "nats, three servers"];
/// The works of its lines, and what follows the subject's name there.
const TRANSPORT_LINES: [(&str, &str); 5] = [
    ("round trip 64 B blocking, unpinned", ""),
    ("1→1 64 B, unpinned", ""),
    ("4→4 64 B", ""),
    ("CPU time of a message, 4→4 64 B", ", clients"),
    ("CPU time of a message, 4→4 64 B", ", servers"),
];

/// The rates in the readme, each between the marks of its name: the work and the subject.
const RATES: [(&str, &str, &str); 6] = [
    ("rate by default", "1→1 64 B, unpinned", "shm as opened"),
    ("rate at best", "1→1 64 B", "shm"),
    (
        "rate of multiprocessing",
        "1→1 64 B",
        "python multiprocessing.Queue",
    ),
    ("rate of iceoryx2", "1→1 64 B", "iceoryx2"),
    ("rate of redis", "1→1 64 B", "redis list"),
    ("rate of nats", "1→1 64 B", "nats jetstream"),
];
const README: &str = "README.md";

impl Block {
    const fn of(name: &'static str, works: &'static [&'static str], form: Form) -> Self {
        let placement = Placed::Otherwise;
        Self {
            name,
            works,
            placement,
            form,
        }
    }

    const fn freely(name: &'static str, works: &'static [&'static str], form: Form) -> Self {
        let placement = Placed::Freely;
        Self {
            placement,
            ..Self::of(name, works, form)
        }
    }

    /// Returns whether there is something new for it.
    fn is_measured(&self, report: &Report) -> bool {
        if self.form == Form::Transports {
            return TRANSPORTS.iter().all(|subject| {
                TRANSPORT_LINES.iter().any(|(work, suffix)| {
                    let mut rows = report.rows_of(work);
                    rows.any(|row| row.subject == format!("{subject}{suffix}"))
                })
            });
        }
        report.works().iter().any(|work| self.holds(work))
    }

    fn holds(&self, work: &str) -> bool {
        let begins = self.works.iter().any(|begin| work.starts_with(begin));
        let freely = work.ends_with(&format!(", {}", Placement::Unpinned.name()));
        begins && freely == (self.placement == Placed::Freely)
    }
}

/// Writes into the folder of the document.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join(FOLDER))?;
    let mut contents = vec![("machine", machine(report)?), ("notes", notes(report)?)];
    if !report.targets.is_empty() {
        contents.push(("targets", targets(report)?));
    }
    // A block without new measurements stays unchanged.
    for block in BLOCKS.iter().filter(|block| block.is_measured(report)) {
        let content = match block.form {
            Form::Columns => columns(report, block)?,
            Form::Plots | Form::Tables => works(report, block, folder)?,
            Form::Transports => transports(report)?,
        };
        contents.push((block.name, content));
    }
    for document in DOCUMENTS {
        let file = folder.join(document);
        let mut text = read(&file)?;
        for (name, content) in &contents {
            if text.contains(&mark(name)) {
                fill(&mut text, name, content)?;
            }
        }
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    write_rates(report, &folder.join("..").join(README))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// Writes the rates into the readme. Those that were not measured stay unchanged.
fn write_rates(report: &Report, file: &Path) -> Result<()> {
    let mut text = read(file)?;
    for (name, work, subject) in RATES {
        let rows = report.rows_of(work).filter(|row| row.subject == subject);
        if let Some(row) = rows.max_by_key(|row| row.samples) {
            fill_within(&mut text, name, &in_words(row.median))?;
        }
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Returns a number with two digits that count.
fn in_words(number: f64) -> String {
    match number {
        1e7.. => format!("{:.0} million", number / 1e6),
        1e6.. => format!("{:.1} million", number / 1e6),
        1e3.. => format!("{:.0},000", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

fn mark(name: &str) -> String {
    format!("<!-- bench: {name} -->")
}

/// Puts `content` between the marks of `name`, in lines of its own.
fn fill(text: &mut String, name: &str, content: &str) -> Result<()> {
    fill_within(text, name, &format!("\n\n{content}\n"))
}

/// Puts `content` between the marks of `name`, within a line.
fn fill_within(text: &mut String, name: &str, content: &str) -> Result<()> {
    let mark = mark(name);
    let begin = text
        .find(&mark)
        .with_context(|| format!("no {mark} in the document"))?
        + mark.len();
    let len = text[begin..]
        .find(END)
        .with_context(|| format!("no {END} after {mark}"))?;
    ensure!(
        !text[begin..begin + len].contains("<!-- bench:"),
        "{mark} has no {END} of its own"
    );
    text.replace_range(begin..begin + len, content);
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
        if block.form == Form::Plots {
            let name = format!("{}.svg", slug(work));
            fs::write(folder.join(FOLDER).join(&name), plot::svg(work, &rows)?)?;
            writeln!(text, "![{work}]({FOLDER}/{name})\n")?;
        }
        writeln!(text, "{}", table(&rows)?)?;
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// Returns a table with a line for each subject at each placement, and a column for each work.
fn columns(report: &Report, block: &Block) -> Result<String> {
    let mut works = report.works();
    works.retain(|work| block.holds(work));
    let mut table = String::from("| subject | placement |");
    for work in &works {
        let what = block.works.iter().find_map(|it| work.strip_prefix(it));
        write!(table, " {} |", what.unwrap_or(work))?;
    }
    writeln!(table, "\n|---|---|{}", "---:|".repeat(works.len()))?;
    let first = works.first().map_or("", |work| work);
    for line in report.rows_of(first) {
        write!(table, "| {} | {} |", line.subject, line.placement.name())?;
        for work in &works {
            let mut cells = report.rows_of(work);
            let of_line =
                |row: &&Summary| row.subject == line.subject && row.placement == line.placement;
            let cell = cells.find(of_line);
            let cell = cell.map(|row| figure(row.median, row.unit));
            write!(table, " {} |", cell.unwrap_or_default())?;
        }
        writeln!(table)?;
    }
    Ok(table)
}

fn transports(report: &Report) -> Result<String> {
    let mut table = format!("| | {} |\n", TRANSPORTS.join(" | "));
    writeln!(table, "|---|{}", "---:|".repeat(TRANSPORTS.len()))?;
    for (work, suffix) in TRANSPORT_LINES {
        write!(table, "| {work}{suffix} |")?;
        for subject in TRANSPORTS {
            let subject = format!("{subject}{suffix}");
            let rows = report.rows_of(work).filter(|row| row.subject == subject);
            let best = rows.max_by_key(|row| row.samples);
            let cell = best.map(|row| figure(row.median, row.unit));
            write!(table, " {} |", cell.unwrap_or_default())?;
        }
        writeln!(table)?;
    }
    Ok(table)
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
    fn each_work_is_in_one_block() {
        let works = crate::work::Work::all(false);
        for work in works.iter().map(|(work, at)| work.title(*at)) {
            let blocks = BLOCKS.iter().filter(|block| block.holds(&work));
            assert_eq!(blocks.count(), 1, "{work}");
        }
    }

    #[test]
    fn the_documents_have_all_marks() {
        let texts = [
            include_str!("../../../docs/performance.md"),
            include_str!("../../../docs/scaling.md"),
        ];
        let others = ["machine", "targets", "notes"];
        for name in BLOCKS.iter().map(|block| block.name).chain(others) {
            let mut filled = texts.map(|text| fill(&mut text.to_owned(), name, "").is_ok());
            filled.sort_unstable();
            assert_eq!(filled, [false, true], "{name}");
        }
        let mut text = include_str!("../../../README.md").to_owned();
        for (name, _, _) in RATES {
            fill_within(&mut text, name, "").unwrap();
        }
    }

    #[test]
    fn a_works_plot_has_a_name_of_its_own() {
        assert_eq!(slug("1→1 64 KiB"), "1-to-1-64-kib");
    }
}
