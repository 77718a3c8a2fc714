//! A comparison of two shapes.

/// Returns the lines of both shapes as one list: `-` marks lines only in the first, `+` lines only
/// in the second.
pub(crate) fn difference(old: &str, new: &str) -> String {
    let (old, new) = (lines(old), lines(new));
    // `common[i][j]` is the length of the longest common subsequence of `old[i..]` and `new[j..]`.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let (sign, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            (' ', &old[i - 1])
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', &old[i - 1])
        } else {
            j += 1;
            ('+', &new[j - 1])
        };
        text.push_str(&format!("\n  {sign} {line}"));
    }
    text
}

/// Splits a shape into lines, one for each field and each variant.
fn lines(shape: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut open = Vec::new();
    let mut in_quotes = false;
    let mut chars = shape.chars().peekable();
    while let Some(c) = chars.next() {
        let indent =
            |open: &[char]| "  ".repeat(open.iter().filter(|bracket| **bracket == '{').count());
        if c == '}' && !in_quotes {
            open.pop();
            lines.push(indent(&open));
        }
        let Some(line) = lines.last_mut() else { break };
        line.push(c);
        match c {
            '\\' if in_quotes => line.extend(chars.next()),
            '"' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            '{' => {
                open.push(c);
                lines.push(indent(&open));
            }
            '(' | '[' | '<' => open.push(c),
            ')' | ']' | '>' => drop(open.pop()),
            ',' if open.last() == Some(&'{') => {
                line.pop();
                chars.next_if_eq(&' ');
                lines.push(indent(&open));
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_field_is_shown_at_its_old_and_its_new_place() {
        let (old, new) = (
            "{from: str, to: str, n: (u8, u8)}",
            "{to: str, from: str, n: (u8, u8)}",
        );
        let text = difference(old, new);
        let expected = [
            "",
            "    {",
            "  -   from: str",
            "      to: str",
            "  +   from: str",
        ];
        assert_eq!(text.lines().take(5).collect::<Vec<_>>(), expected, "{text}");
        assert!(text.contains("\n      n: (u8, u8)"), "{text}");
        assert!(
            difference("[{a: u8}]", "[{a: u8, b: option<str>}]").contains("+   b: option<str>")
        );
        assert!(difference(r#"{"a, b": u8}"#, "{}").contains(r#"-   "a, b": u8"#));
    }
}
