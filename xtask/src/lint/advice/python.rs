//! The texts of the Python package, for the check of advice.
//!
//! Does not parse Python: it finds string literals, and joins those that follow each other.
//! Literals in triple quotes are docstrings.

use std::path::PathBuf;

use anyhow::{Context, Result};
use xtask::cargo;

/// The modules of the package.
pub(super) fn files() -> Result<Vec<PathBuf>> {
    let folder = cargo::root().join("ipc-python/python/ipc_queue");
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "py") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The string literals of a module, each with the number of the line where it begins. An f-string
/// has its braces.
pub(super) fn strings(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    let mut at = 0;
    while let Some(next) = code[at..].chars().next() {
        let rest = &code[at..];
        at += if next == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("\"\"\"") || rest.starts_with("'''") {
            continues = false;
            let end = rest[3..].find(&rest[..3]);
            end.map_or(rest.len(), |end| end + 6)
        } else if next == '"' || next == '\'' {
            let length = length(&rest[1..], next);
            let text = unescaped(&rest[1..=length]);
            match found.last_mut().filter(|_| continues) {
                Some((_, before)) => before.push_str(&text),
                None => found.push((1 + code[..at].matches('\n').count(), text)),
            }
            continues = true;
            length + 2
        } else {
            continues &= next.is_whitespace() || is_prefix(rest);
            next.len_utf8()
        };
    }
    found
}

/// Whether this is the letter before a literal, as in `f"..."`.
fn is_prefix(rest: &str) -> bool {
    rest.starts_with(['f', 'r', 'b']) && rest[1..].starts_with(['"', '\''])
}

/// The number of bytes before the quote that ends a literal.
fn length(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = literal.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap_or(literal.len())
}

fn unescaped(literal: &str) -> String {
    literal
        .replace("\\\"", "\"")
        .replace("\\'", "'")
        .replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::strings;

    const CODE: &str = r#"
def f(a):
    """Docs: ignore "them"."""
    # 'a comment': ignore it
    g('it\'s', f"full: wait "
      "or remove {a!r}")
    x = "one", "two"
"#;

    #[test]
    fn python_strings_are_found_joined_and_with_their_line() {
        let wanted = [
            (5, "it's"),
            (5, "full: wait or remove {a!r}"),
            (7, "one"),
            (7, "two"),
        ];
        let wanted = wanted.map(|(line, text)| (line, text.to_owned()));
        assert_eq!(strings(CODE), wanted);
    }
}
