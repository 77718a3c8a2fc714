//! `cargo xtask mutants`: small wrong changes of the code, each of which a check must catch.
//!
//! A test that can't fail is worse than none. For each change the list (`ipc-queue/mutants.toml`)
//! says what would go wrong and which test must fail. Each change is made in a copy of the
//! workspace, one at a time, and the named tests are run there. A mutant that passes them is tried
//! with all other tests of their target. One that also passes these has survived: a check is
//! missing.
//!
//! Does not generate mutants by itself.

mod copy;
mod list;
mod report;
mod trial;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use copy::Copy;
use list::Mutant;
use report::{Line, Report};
use trial::{Further, Targets};

use xtask::ending::end;

/// The mutants to try, and the way to report.
#[derive(Debug, Args)]
pub struct Options {
    /// Only mutants whose name contains one of these
    #[arg(value_name = "PART")]
    filters: Vec<String>,

    /// List the mutants, and show whether each still applies
    #[arg(long)]
    list: bool,

    /// Stop after the tests that the list names, even if they let a mutant pass: faster while the
    /// list is written
    #[arg(long)]
    named_only: bool,

    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let mutants = choose(options)?;
    if options.list {
        report::list(&mutants);
        return Ok(ExitCode::SUCCESS);
    }
    let copy = Copy::make()?;
    let bar = progress_bar(options, mutants.len());
    let lines = try_all(&copy, &mutants, options, &bar)?;
    bar.finish_and_clear();
    let report = Report::new(lines, started.elapsed());
    end(options.json, &report, &report, report.is_clean())
}

fn choose(options: &Options) -> Result<Vec<Mutant>> {
    let all = list::load()?;
    // All mutants are checked, even those that are not tried: otherwise the list would go stale.
    list::check(&all)?;
    let wanted = |mutant: &Mutant| {
        let named = |part: &String| mutant.name.contains(part.as_str());
        options.filters.is_empty() || options.filters.iter().any(named)
    };
    let chosen: Vec<Mutant> = all.into_iter().filter(wanted).collect();
    ensure!(
        !chosen.is_empty(),
        "no mutant is called like that: `cargo xtask mutants --list` has them all"
    );
    Ok(chosen)
}

impl Options {
    fn further(&self) -> Further {
        if self.named_only {
            Further::No
        } else {
            Further::Yes
        }
    }
}

fn try_all(
    copy: &Copy,
    mutants: &[Mutant],
    options: &Options,
    bar: &ProgressBar,
) -> Result<Vec<Line>> {
    bar.set_message("without any mutant");
    let targets = Targets::without_mutants(copy, mutants)?;
    let mut lines = Vec::new();
    for mutant in mutants {
        bar.set_message(mutant.name.clone());
        let started = Instant::now();
        let original = copy.read(&mutant.file)?;
        copy.write(&mutant.file, &mutant.apply(&original)?)?;
        let verdict = targets.try_one(copy, &mutant.caught_by, options.further());
        copy.write(&mutant.file, &original)?;
        let line = Line::new(mutant, verdict?, started.elapsed());
        // Without a visible bar, each result is printed.
        if !line.verdict.is_as_expected() || bar.is_hidden() && !options.json {
            let (seconds, done) = (bar.elapsed().as_secs(), lines.len() + 1);
            bar.suspend(|| eprintln!("{seconds:4} s  {done}/{}  {line}", mutants.len()));
        }
        lines.push(line);
        bar.inc(1);
    }
    Ok(lines)
}

fn progress_bar(options: &Options, mutants: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30.cyan} {pos}/{len}  {elapsed}, {eta} left  {msg}");
    let bar = if options.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(mutants as u64)
    };
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
