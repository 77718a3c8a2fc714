//! The display of a run in progress: a bar on a terminal, lines elsewhere. All of it on stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use ipc_demo::plan::Audience;

use crate::cli::RunOptions;

/// Shows progress.
pub struct Show {
    bar: Option<ProgressBar>,
    /// A line is printed each time this many more tasks are done.
    every: Every,
    last_line: usize,
}

#[derive(Clone, Copy)]
enum Every {
    /// This number of tasks.
    Tasks(usize),
    /// A tenth of all.
    Tenth,
}

impl Show {
    /// For a run with these options.
    pub fn new(options: &RunOptions) -> Self {
        let on_terminal = io::stderr().is_terminal() && options.simulate.is_none();
        Self {
            bar: on_terminal.then(bar),
            every: if options.simulate.is_some() {
                Every::Tasks(10)
            } else {
                Every::Tenth
            },
            last_line: 0,
        }
    }

    fn line_due(&mut self, done: usize, all: usize) -> bool {
        let step = match self.every {
            Every::Tasks(count) => count,
            Every::Tenth => all.div_ceil(10).max(1),
        };
        let line = done / step;
        std::mem::replace(&mut self.last_line, line) != line
    }
}

/// The run has ended in some way.
impl Drop for Show {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Audience for Show {
    fn progress(&mut self, done: usize, all: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        } else if self.line_due(done, all) {
            say(&format!("{done} of {all} tasks done"));
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}

/// If stderr is closed, that is not a reason to stop, or to panic as `eprintln` does.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn bar() -> ProgressBar {
    // Narrower than a terminal of 80 columns, because the `^C` that it shows would push the bar to
    // the next line.
    let template = "{bar:30.cyan} {pos}/{len} tasks, {rate}/s, {eta} left";
    let style = ProgressStyle::with_template(template).map(|style| {
        style.with_key(
            "rate",
            |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = write!(text, "{:.0}", state.per_sec());
            },
        )
    });
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
