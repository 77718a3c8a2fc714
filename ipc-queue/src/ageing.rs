//! Which of several priorities goes next, so that none waits for ever.
//!
//! A message that waited for one ageing time counts as of the next higher priority, and so on without an end. So
//! whatever is urgent goes first while it comes seldom, and a stream of urgent messages keeps others waiting for a
//! few ageing times, not for ever.

use std::time::Duration;

use ipc_proto::Priority;

/// The priority to take from: `waited` says how long the first message of each has waited, if there is one.
pub(crate) fn next(
    waited: [Option<Duration>; Priority::COUNT],
    ageing: Duration,
) -> Option<Priority> {
    let rank = |priority: &Priority| {
        let waited = waited[priority.index()]?;
        let steps = waited.as_nanos() / ageing.as_nanos().max(1);
        // Of two that count the same, the one that waited longer.
        Some((priority.index() as u128 + steps, waited))
    };
    let waiting = Priority::ALL
        .into_iter()
        .filter(|priority| waited[priority.index()].is_some());
    waiting.max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(10);

    fn of(waited_s: [Option<u64>; 4]) -> Option<Priority> {
        next(waited_s.map(|s| s.map(Duration::from_secs)), AGEING)
    }

    #[test]
    fn the_most_urgent_goes_first_while_all_are_fresh() {
        assert_eq!(
            of([Some(9), Some(9), Some(9), Some(0)]),
            Some(Priority::Urgent)
        );
        assert_eq!(of([Some(0), None, None, None]), Some(Priority::Low));
        assert_eq!(of([None; 4]), None);
    }

    #[test]
    fn who_waited_long_enough_goes_before_fresh_ones() {
        assert_eq!(of([None, Some(10), Some(9), None]), Some(Priority::Normal));
        assert_eq!(of([None, Some(9), Some(0), None]), Some(Priority::High));
        assert_eq!(of([Some(30), None, None, Some(9)]), Some(Priority::Low));
        assert_eq!(of([Some(29), None, None, Some(0)]), Some(Priority::Urgent));
    }
}
