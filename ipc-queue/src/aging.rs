//! The order of priorities: the most urgent first, but none waits forever.
//!
//! For each aging time that a message waited, it counts as one priority higher, without an upper
//! limit. So urgent messages go first while they are rare. A stream of urgent messages delays
//! others by a few aging times, but not forever.

use std::cmp::Reverse;
use std::time::Duration;

use ipc_proto::Priority;

/// Returns the priorities in the order in which to take from them. `waited` is how long the first
/// message of each priority has waited, as far as that is known.
pub(crate) fn order(
    waited: [Option<Duration>; Priority::COUNT],
    aging: Duration,
) -> [Priority; Priority::COUNT] {
    let rank = |priority: &Priority| {
        let waited = waited[priority.index()].unwrap_or_default();
        let steps = waited.as_nanos() / aging.as_nanos().max(1);
        // Of two with the same rank, the one that waited longer goes first.
        Reverse((priority.index() as u128 + steps, waited))
    };
    let mut order = Priority::ALL;
    order.sort_by_key(rank);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGING: Duration = Duration::from_secs(10);

    fn first(waited_s: [Option<u64>; 4]) -> Priority {
        order(waited_s.map(|s| s.map(Duration::from_secs)), AGING)[0]
    }

    #[test]
    fn the_most_urgent_goes_first_while_all_are_fresh() {
        assert_eq!(
            first([Some(9), Some(9), Some(9), Some(0)]),
            Priority::Urgent
        );
        let by_urgency = order([None; 4], AGING);
        assert!(by_urgency.is_sorted_by(|one, next| one > next));
    }

    #[test]
    fn who_waited_long_enough_goes_before_fresh_ones() {
        assert_eq!(first([None, Some(30), Some(9), Some(0)]), Priority::Normal);
        assert_eq!(first([None, Some(9), Some(10), None]), Priority::High);
        assert_eq!(first([Some(30), None, None, Some(9)]), Priority::Low);
        assert_eq!(first([Some(29), None, None, Some(0)]), Priority::Urgent);
    }
}
