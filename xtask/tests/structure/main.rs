//! The structure of the source: no import circles, no long files, no long functions.

mod circles;
mod exhaustive;
mod lengths;
mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use quote::ToTokens;
use syn::Attribute;
use xtask::cargo::root;

fn parsed(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Every Rust file below a folder, except build products.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            name != "target" && !name.starts_with('.')
        });
    files
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect()
}

/// Returns `true` for items that only tests have.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && words.any(|word| word == "test")
                && !text.contains("not (test")
    })
}
