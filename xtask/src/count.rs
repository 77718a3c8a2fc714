//! `cargo xtask count`: the number of instructions of an operation, and of locked ones.
//!
//! Times can't guard against regressions on a machine with other users; instruction counts are the
//! same each time. The program `counted` performs an operation some thousand times under callgrind.
//! callgrind counts on one thread, and only in the requested function. It calls locked instructions
//! bus events.
//!
//! The limits are in `counted/instructions.toml`, and `tests/instructions.rs` enforces them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

use xtask::cargo;
use xtask::ending::end;

/// The use of the figures.
#[derive(Debug, Args)]
pub struct Options {
    /// Make these figures the new limits, also in the documentation
    #[arg(long)]
    write: bool,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The cost of one message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    instructions: f64,
    locked: f64,
}

/// Keyed by operation, then by side.
type Costs = BTreeMap<String, BTreeMap<String, Cost>>;

/// The counts, and their limits.
#[derive(Debug, Serialize)]
struct Report {
    counted: Costs,
    known: Costs,
    /// The costs above their limits.
    exceeded: Vec<String>,
}

const PROGRAM: &str = "counted";
const KNOWN: &str = "xtask/counted/instructions.toml";
const DOCUMENT: &str = "docs/performance.md";
const MARK: &str = "<!-- count -->";
const END: &str = "<!-- end -->";
const OPERATIONS: [&str; 9] = [
    "inline",
    "leased",
    "loaned",
    "chunked",
    "batch",
    "batch-acked",
    "chunked-batch",
    "typed",
    "postcard",
];
const SIDES: [&str; 2] = ["send", "receive"];
/// The tolerated growth: compilers differ.
const SLACK: f64 = 1.1;
const HEADER: &str = "# What a message takes on x86-64, by operation and side: instructions, and locked ones among them.\n\
    # Written by `cargo xtask count --write`. A test lets each take a tenth more.\n";

pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: no instructions are counted: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let counted = count_all()?;
    if options.write {
        std::fs::write(cargo::root().join(KNOWN), table_file(&counted)?)
            .with_context(|| format!("writing {KNOWN}"))?;
        document(&counted)?;
    }
    let report = Report::new(counted, known()?);
    let is_well = report.exceeded.is_empty();
    end(options.json, &report, &report, is_well)
}

/// The reason why nothing can be counted here.
fn missing() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some(format!("{KNOWN} is about another processor"));
    }
    let mut valgrind = Command::new("valgrind");
    let version = valgrind
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match version.status() {
        Ok(status) if status.success() => None,
        _ => Some("there is no valgrind".to_owned()),
    }
}

fn count_all() -> Result<Costs> {
    let program = cargo::build(PROGRAM, &[])?;
    let mut costs = Costs::new();
    for operation in OPERATIONS {
        for side in SIDES {
            let cost = count(&program, operation, side)
                .with_context(|| format!("counting {operation}, {side}"))?;
            let sides = costs.entry(operation.to_owned()).or_default();
            sides.insert(side.to_owned(), cost);
        }
    }
    Ok(costs)
}

fn count(program: &Path, operation: &str, side: &str) -> Result<Cost> {
    let folder = tempfile::tempdir_in("/dev/shm")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-bus=yes", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*measured_{side}*"))
        .arg(program)
        .arg(operation)
        .env("IPC_SHM_DIR", folder.path().join("shm"))
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {told}");
    let messages: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    let numbers = collected
        .with_context(|| format!("valgrind said {told}"))?
        .1
        .split_whitespace()
        .map(str::parse::<f64>)
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(numbers.len() == 2, "valgrind counted {numbers:?}");
    let each = |number: f64| (number / messages * 10.0).round() / 10.0;
    Ok(Cost {
        instructions: each(numbers[0]),
        locked: each(numbers[1]),
    })
}

fn known() -> Result<Costs> {
    let text = std::fs::read_to_string(cargo::root().join(KNOWN))
        .with_context(|| format!("reading {KNOWN}"))?;
    toml::from_str(&text).with_context(|| format!("{KNOWN} is not as it should be"))
}

fn table_file(costs: &Costs) -> Result<String> {
    let mut file = HEADER.to_owned();
    for (operation, sides) in costs {
        writeln!(file, "\n[{operation}]")?;
        for (side, cost) in sides {
            let Cost {
                instructions,
                locked,
            } = cost;
            writeln!(
                file,
                "{side} = {{ instructions = {instructions:.1}, locked = {locked:.1} }}"
            )?;
        }
    }
    Ok(file)
}

/// Writes the figures into the documentation, between their marks.
fn document(costs: &Costs) -> Result<()> {
    let file = cargo::root().join(DOCUMENT);
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {DOCUMENT}"))?;
    let parts = text.split_once(MARK);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| format!("no {MARK} in {DOCUMENT}"))?;
    let mut table =
        String::from("| operation | side | instructions | locked |\n|---|---|---:|---:|\n");
    for (operation, sides) in costs {
        for (side, cost) in sides {
            let Cost {
                instructions,
                locked,
            } = cost;
            writeln!(
                table,
                "| {operation} | {side} | {instructions:.0} | {locked:.1} |"
            )?;
        }
    }
    let text = format!("{before}{MARK}\n\n{table}\n{END}{after}");
    std::fs::write(&file, text).with_context(|| format!("writing {DOCUMENT}"))
}

impl Cost {
    fn exceeds(self, known: Self) -> bool {
        let exceeds = |counted: f64, known: f64| counted > known * SLACK;
        exceeds(self.instructions, known.instructions) || exceeds(self.locked, known.locked)
    }
}

impl Report {
    fn new(counted: Costs, known: Costs) -> Self {
        let mut exceeded = Vec::new();
        for (operation, sides) in &counted {
            for (side, cost) in sides {
                let known = known.get(operation).and_then(|sides| sides.get(side));
                if known.is_none_or(|known| cost.exceeds(*known)) {
                    exceeded.push(format!("{operation}, {side}"));
                }
            }
        }
        Self {
            counted,
            known,
            exceeded,
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.set_header(["operation", "side", "instructions", "locked", "known"]);
        for (operation, sides) in &self.counted {
            for (side, cost) in sides {
                let known = self.known.get(operation).and_then(|sides| sides.get(side));
                table.add_row([
                    operation.clone(),
                    side.clone(),
                    format!("{:.1}", cost.instructions),
                    format!("{:.1}", cost.locked),
                    known.map_or(String::new(), |known| {
                        format!("{:.1}, {:.1}", known.instructions, known.locked)
                    }),
                ]);
            }
        }
        for column in 2..=4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{table}")?;
        for operation in &self.exceeded {
            write!(
                f,
                "\n{operation}: more than 10% above the limit in {KNOWN}. If this is intended: cargo xtask count --write"
            )?;
        }
        Ok(())
    }
}
