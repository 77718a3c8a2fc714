//! `man`: the manual pages, one for each command, generated from the texts of `--help`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::show::Show;

/// Writes every page into `folder`.
pub fn man(folder: &Path, show: &Show) -> Result<()> {
    let mut cli = Cli::command();
    // This gives subcommands their full names.
    cli.build();
    let writing = || format!("writing manual pages to {}", folder.display());
    fs::create_dir_all(folder).with_context(writing)?;
    write_with_subcommands(&cli, "ipc", folder).with_context(writing)?;
    let folder = folder.display();
    show.line(&format!("the pages are in {folder}: man -l {folder}/ipc.1"));
    Ok(())
}

fn write_with_subcommands(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let is_page = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for sub in command.get_subcommands().filter(is_page) {
        write_with_subcommands(sub, &format!("{name}-{}", sub.get_name()), folder)?;
    }
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    let page = tidy(&String::from_utf8_lossy(&page), name);
    Ok(fs::write(folder.join(format!("{name}.1")), page)?)
}

/// Returns the page with our own title, and with line breaks kept in indented text.
fn tidy(page: &str, name: &str) -> String {
    let mut tidied = String::new();
    let mut is_filled = true;
    for line in page.lines() {
        let is_text = !line.starts_with(' ');
        if is_text != is_filled {
            tidied.push_str(if is_text { ".fi\n" } else { ".nf\n" });
            is_filled = is_text;
        }
        tidied.push_str(&match line {
            line if line.starts_with(".TH ") => {
                let version = env!("CARGO_PKG_VERSION");
                format!(
                    ".TH {} 1 \"\" \"ipc {version}\" \"ipc\"",
                    name.to_uppercase()
                )
            }
            ".SH EXTRA" => ".SH NOTES".to_owned(),
            line => line.to_owned(),
        });
        tidied.push('\n');
    }
    if !is_filled {
        tidied.push_str(".fi\n");
    }
    tidied
}
