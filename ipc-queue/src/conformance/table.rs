//! The table of transports and their features, as Markdown. It is made from their declarations,
//! which the suite checks.

use crate::capability::{Capabilities, Feature, Support};

/// The features of several transports: a column for each transport, a row for each feature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(Vec<(String, Capabilities)>);

impl Table {
    /// Creates a table without columns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the table in a text, if there is one.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(HEAD));
        let names = cells(lines.next()?).skip(1);
        let mut table = Self(
            names
                .map(|name| (name.trim_matches('`').to_owned(), Capabilities::none()))
                .collect(),
        );
        for (line, feature) in lines.skip(1).zip(Feature::ALL) {
            let cells = cells(line).skip(1);
            for ((_, capabilities), cell) in table.0.iter_mut().zip(cells) {
                let supports = [Support::Native, Support::Emulated, Support::Unsupported];
                let support = supports
                    .into_iter()
                    .find(|support| word(*support) == cell)?;
                *capabilities = capabilities.with(feature, support);
            }
        }
        Some(table)
    }

    /// Returns the lines of the table in a text, if there is one.
    #[must_use]
    pub fn lines_in(text: &str) -> Option<&str> {
        let is_head = |line: &&str| line.starts_with(HEAD);
        let before = text.split_inclusive('\n').take_while(|line| !is_head(line));
        let rest = text.get(before.map(str::len).sum()..)?;
        let lines = rest.split_inclusive('\n');
        let table = lines.take_while(|line| line.starts_with('|'));
        let len: usize = table.map(str::len).sum();
        rest.get(..len).filter(|lines| !lines.is_empty())
    }

    /// Returns the column of a transport, by its scheme.
    #[must_use]
    pub fn column(&self, scheme: &str) -> Option<Capabilities> {
        let column = self.0.iter().find(|(name, _)| name == scheme);
        column.map(|(_, capabilities)| *capabilities)
    }

    /// Adds or replaces a column.
    #[must_use]
    pub fn with(mut self, scheme: &str, capabilities: Capabilities) -> Self {
        match self.0.iter_mut().find(|(name, _)| name == scheme) {
            Some((_, column)) => *column = capabilities,
            None => self.0.push((scheme.to_owned(), capabilities)),
        }
        self
    }

    /// Returns the transport and the feature of each cell with "emulated". Each of them needs its
    /// limits stated.
    pub fn emulated(&self) -> impl Iterator<Item = (&str, Feature)> {
        self.0.iter().flat_map(|(name, capabilities)| {
            let features = Feature::ALL.into_iter();
            let emulated =
                features.filter(move |feature| capabilities.support(*feature) == Support::Emulated);
            emulated.map(move |feature| (&name[..], feature))
        })
    }

    /// Returns the table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let columns = self.0.iter();
        let names: String = columns.map(|(name, _)| format!(" `{name}` |")).collect();
        let mut text = format!("{HEAD}{names}\n|---|{}\n", "---|".repeat(self.0.len()));
        for feature in Feature::ALL {
            let row: String = (self.0.iter())
                .map(|(_, capabilities)| format!(" {} |", word(capabilities.support(feature))))
                .collect();
            text.push_str(&format!("| {feature} |{row}\n"));
        }
        text
    }
}

/// The beginning of its first line.
const HEAD: &str = "| beyond that |";

fn word(support: Support) -> &'static str {
    match support {
        Support::Native => "native",
        Support::Emulated => "emulated",
        Support::Unsupported => "–",
    }
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.trim_matches('|').split('|').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_round_trips_through_its_text() {
        let some = Capabilities::none().natively([Feature::Pause, Feature::Delay]);
        let table = Table::new()
            .with("one", some)
            .with("two", Capabilities::none().natively(Feature::ALL));
        let text = format!("# Above\n\n{}\nBelow.\n", table.markdown());
        assert_eq!(Table::find(&text), Some(table.clone()));
        assert_eq!(Table::lines_in(&text), Some(&*table.markdown()));
        let emulated: Vec<_> = table.emulated().collect();
        assert_eq!(emulated, [("one", Feature::Batches)]);
        assert_eq!(Table::find("no table"), None);
        assert_eq!(Table::lines_in("no table"), None);
    }

    #[test]
    fn a_column_is_replaced_where_it_is() {
        let table = Table::new().with("one", Capabilities::none());
        let table = table.with("two", Capabilities::none());
        let all = Capabilities::none().natively(Feature::ALL);
        let table = table.with("one", all);
        assert_eq!(table.column("one"), Some(all));
        assert!(
            table
                .markdown()
                .starts_with("| beyond that | `one` | `two` |\n")
        );
    }
}
