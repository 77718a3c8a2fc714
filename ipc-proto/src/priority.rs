//! Which messages go before others.

use serde::{Deserialize, Serialize};

/// How urgent a message is. The numbers are the wire format and never change.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum Priority {
    /// After everything else.
    Low = 0,
    /// What is not said to be otherwise.
    #[default]
    Normal = 1,
    /// Before what is normal.
    High = 2,
    /// Before everything else.
    Urgent = 3,
}

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// All of them, the least urgent first.
    pub const ALL: [Self; Self::COUNT] = [Self::Low, Self::Normal, Self::High, Self::Urgent];

    /// Its number: 0 for the least urgent.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_with_urgency() {
        for (number, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority.index(), number);
        }
        assert!(Priority::ALL.is_sorted());
    }
}
