//! Tests of state words.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn every_word_is_a_state_and_every_state_its_word(word: u64) {
        prop_assert_eq!(State::from_word(word).to_word(), word);
    }

    #[test]
    fn laps_compare_right_across_the_wrap(start: u64, ahead in 0..(1u64 << 33)) {
        let (first, second) = (Lap::new(start), Lap::new(start.wrapping_add(ahead)));
        prop_assert_eq!(second.since(first), ahead.cast_signed());
        prop_assert_eq!(first.since(second), -ahead.cast_signed());
    }

    #[test]
    fn positions_survive_their_word(lap: u64, index in 0..1u32 << 20, cells in 1..=1u32 << 20) {
        let position = Position::new(Lap::new(lap), index % cells);
        prop_assert_eq!(Position::from_word(position.to_word(), cells), position);
        prop_assert_eq!(position.compare(position.next(cells)), Ordering::Less);
    }
}

#[test]
fn a_zero_word_is_a_free_cell_of_the_first_lap() {
    assert_eq!(State::from_word(0), State::free(Lap::default()));
}

#[test]
fn a_cell_that_is_being_written_tells_when_it_was_claimed() {
    let mut state = State::free(Lap::new(u64::MAX)).claimed_by(Seat::of_slot(3));
    for _ in 0..u8::MAX {
        assert_eq!(state.claimed_at(), Some(Lap::new(u64::MAX)));
        state = State::from_word(state.stepped_over().to_word());
    }
    assert_eq!((state.claimed_at(), state.lap), (None, Lap::new(254)));
    assert_eq!(state.written_as(CellKind::Ready).attempt, 0);
}

#[test]
fn deliveries_are_counted_from_any_number_on() {
    for base in [0, 1, 2, 100, 254, 255] {
        let mut attempt = base;
        for count in 0..=250 {
            assert_eq!(
                attempts_since(attempt, base),
                count,
                "{attempt} since {base}"
            );
            attempt = attempt_after(attempt);
        }
    }
}

#[test]
fn a_quarantined_cell_is_free_after_its_last_zombie() {
    let (one, other) = (Seat::of_slot(0), Seat::of_slot(510));
    let state = State {
        kind: CellKind::Quarantined,
        owner: Some(one),
        zombie: Some(other),
        ..State::from_word(0)
    };
    let half = state.let_go_by(one).unwrap();
    assert_eq!(half.kind, CellKind::Quarantined);
    assert_eq!(half.let_go_by(one), None);
    assert_eq!(half.let_go_by(other), Some(State::free(state.lap)));
}
