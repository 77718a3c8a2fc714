//! Names that are shortened to the width of a column, and can still be told apart.

use std::collections::HashMap;

use crate::format::shortened;

/// Shortens each of these different names to `room` characters. Names that would look alike show
/// the part in which they differ instead.
pub fn shortened_apart(names: &[&str], room: usize) -> Vec<String> {
    /// A form that sets a name apart from some others may be like that of yet another name.
    const ROUNDS: usize = 8;
    let mut short: Vec<_> = names.iter().map(|name| shortened(name, room)).collect();
    let names: Vec<Vec<char>> = names.iter().map(|name| name.chars().collect()).collect();
    for _ in 0..ROUNDS {
        let mut alike: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, form) in short.iter().enumerate() {
            alike.entry(form.clone()).or_default().push(index);
        }
        alike.retain(|_, members| members.len() > 1);
        if alike.is_empty() {
            break;
        }
        for members in alike.into_values() {
            let (begin, end) = in_common(&names, &members);
            for index in members {
                short[index] = around(&names[index], begin, end, room);
            }
        }
    }
    short
}

/// Returns how many characters these names have in common at their beginnings, and then at their
/// ends.
fn in_common(names: &[Vec<char>], members: &[usize]) -> (usize, usize) {
    let first = &names[members[0]];
    let others = || members[1..].iter().map(|index| &names[*index]);
    let begin = others()
        .map(|other| prefix(first, other))
        .min()
        .unwrap_or(0);
    let end = others()
        .map(|other| suffix(&first[begin..], &other[begin..]))
        .min();
    (begin, end.unwrap_or(0))
}

/// Shows what a name has between its first `begin` and its last `end` characters. The beginning and
/// the end of the name get the rest of the room.
fn around(name: &[char], begin: usize, end: usize, room: usize) -> String {
    let begin = word_before(
        name,
        begin,
        room.saturating_sub(name.len() - begin - end + 2) / 2,
    );
    let middle = &name[begin..name.len() - end];
    // An ellipsis on either side.
    let Some(spare) = room.checked_sub(middle.len() + 2) else {
        let middle: String = middle.iter().collect();
        return format!("…{}", shortened(&middle, room.saturating_sub(1)));
    };
    let tail = end.min(spare / 2);
    let head = begin.min(spare - tail);
    let tail = end.min(spare - head);
    let mut shown: Vec<_> = name[..head].to_vec();
    if head < begin {
        shown.push('…');
    }
    shown.extend(middle);
    if tail < end {
        shown.push('…');
    }
    shown.extend(&name[name.len() - tail..]);
    shown.into_iter().collect()
}

/// Returns where the word before `at` begins, if that is at most `room` characters away.
fn word_before(name: &[char], at: usize, room: usize) -> usize {
    let is_separator = |at: &usize| !name[*at].is_alphanumeric();
    let mut separators = (0..at).rev().filter(is_separator);
    // The first separator may be between the word and the difference.
    let begin = match separators.next() {
        Some(nearest) if nearest + 1 == at => separators.next().map_or(0, |at| at + 1),
        nearest => nearest.map_or(0, |at| at + 1),
    };
    if at - begin <= room { begin } else { at }
}

fn prefix(one: &[char], other: &[char]) -> usize {
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

fn suffix(one: &[char], other: &[char]) -> usize {
    let pairs = one.iter().rev().zip(other.iter().rev());
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A terminal whose size is not known has no columns.
    #[test]
    fn names_without_anything_in_common_fit_any_room() {
        for room in 0..4 {
            let short = shortened_apart(&["a", "bb", "media/jobs", "ccc"], room);
            assert!(
                short.iter().all(|form| form.chars().count() <= room.max(2)),
                "{short:?}"
            );
        }
    }

    #[test]
    fn names_that_differ_in_the_middle_show_where() {
        let names = [
            "media/invoices-region-1-archive-v2",
            "media/invoices-region-2-archive-v2",
            "media/invoices-region-17-archive-v2",
            "media/resize",
        ];
        let short = shortened_apart(&names, 12);
        assert_eq!(
            short,
            [
                "media…1…e-v2",
                "media…2…e-v2",
                "medi…17…e-v2",
                "media/resize"
            ]
        );
    }

    #[test]
    fn the_word_before_the_difference_is_shown_where_there_is_room() {
        let names = [
            "media/invoices-region-1-archive-v2",
            "media/invoices-region-2-archive-v2",
        ];
        let short = shortened_apart(&names, 18);
        assert_eq!(short, ["medi…region-1…e-v2", "medi…region-2…e-v2"]);
    }

    #[test]
    fn short_names_stay_whole() {
        let names = ["media/a-v2", "media/b-v2"];
        assert_eq!(shortened_apart(&names, 10), names);
    }

    #[test]
    fn short_forms_fit_and_differ_as_long_as_there_is_room() {
        let regions = (0..40).map(|n| format!("media/invoices-{}-of-region-{n}-archive-v2", n % 3));
        let kinds = ["resize", "resise", "reside"].map(|kind| {
            format!("media/thumbnails-{kind}-for-the-archive-of-the-year-with-a-long-name")
        });
        let names: Vec<_> = regions.chain(kinds).collect();
        let names: Vec<_> = names.iter().map(|name| &name[..]).collect();
        for room in 8..60 {
            let short = shortened_apart(&names, room);
            assert!(
                short.iter().all(|name| name.chars().count() <= room),
                "{short:?}"
            );
            let different: HashSet<_> = short.iter().collect();
            assert!(
                room < 12 || different.len() == names.len(),
                "{room}: {short:#?}"
            );
        }
        // Also without any room, and with names that are not ASCII.
        for room in 0..8 {
            shortened_apart(&names, room);
        }
        shortened_apart(&["ä", "ö", "äöä", ""], 1);
    }
}
