//! Priorities of messages.

use serde::{Deserialize, Serialize};

/// The urgency of a message. The numbers are part of the wire format and never change.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum Priority {
    /// Delivered after all others.
    Low = 0,
    /// The default.
    #[default]
    Normal = 1,
    /// Delivered before `Normal`.
    High = 2,
    /// Delivered before all others.
    Urgent = 3,
}

impl Priority {
    /// The number of priorities.
    pub const COUNT: usize = 4;

    /// All priorities, the least urgent first.
    pub const ALL: [Self; Self::COUNT] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// Returns its number: 0 for the least urgent.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_more_urgent_priority_has_a_higher_number() {
        for (number, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority.index(), number);
        }
        assert!(Priority::ALL.is_sorted());
    }
}
