//! What is explored: each promise with the smallest cast that could break it.
//!
//! Where there are too many orders for every one, an operation is interrupted a few times at most;
//! switching between two operations is always free. `MODEL_LONG` allows one interruption more, and
//! takes an hour.

use super::actor::Do::{self, *};
use super::explorer::{Scenario, check};
use crate::shm::memory::RingWord;

fn sends(messages: &[u8]) -> Vec<Do> {
    messages
        .iter()
        .flat_map(|message| [Claim(*message), Publish])
        .collect()
}

fn acks(times: usize) -> Vec<Do> {
    [Take, Ack].repeat(times)
}

/// Claims and abandons, so that the ring goes round.
fn turns(claims: usize) -> Vec<Do> {
    [Claim(7), Abandon].repeat(claims)
}

fn explore(name: &str, preemptions: u8, scenario: Scenario) {
    let more = std::env::var_os("MODEL_LONG").is_some();
    let cells = scenario.shape.cells;
    let scenario = scenario.preempted(preemptions + u8::from(more));
    check(&format!("{name}, {cells} cells"), &scenario);
}

// --- order, room, and nothing overlooked, while nobody dies
// ------------------------------------------

#[test]
fn one_sender_and_one_receiver_in_every_order() {
    for cells in 1..=3 {
        let actors = vec![(0, sends(&[1, 2])), (1, acks(2))];
        check("one to one", &Scenario::new(cells, actors).with_hints());
    }
}

#[test]
fn two_senders_share_a_ring() {
    for cells in 1..=3 {
        let actors = vec![(0, sends(&[1, 2])), (1, sends(&[3])), (2, acks(3))];
        explore("two to one", 1, Scenario::new(cells, actors));
        let actors = vec![(0, sends(&[1])), (1, sends(&[2])), (2, acks(2))];
        explore(
            "two to one, hints",
            2,
            Scenario::new(cells, actors).with_hints(),
        );
    }
}

#[test]
fn two_receivers_share_a_ring() {
    for cells in 1..=3 {
        let actors = vec![(0, sends(&[1, 2, 3])), (1, acks(2)), (2, acks(1))];
        explore("one to two", 2, Scenario::new(cells, actors));
    }
}

#[test]
fn two_senders_and_two_receivers_share_a_ring() {
    for cells in 1..=3 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, sends(&[3])),
            (2, acks(2)),
            (3, acks(1)),
        ];
        explore("two to two", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn runs_are_sent_and_received_in_every_order() {
    let takes = vec![TakeRun(2), AckRun, TakeRun(2), AckRun];
    for cells in 1..=3 {
        let sends = vec![ClaimRun(&[1, 2]), Publish, ClaimRun(&[3, 4]), Publish];
        let actors = vec![(0, sends), (1, takes.clone())];
        check("runs", &Scenario::new(cells, actors).with_hints());
    }
}

#[test]
fn runs_and_single_messages_share_a_ring() {
    for cells in 1..=4 {
        let three: [Do; 2] = [ClaimRun(&[1, 2, 3]), Publish];
        let actors = vec![
            (0, three.to_vec()),
            (1, sends(&[4])),
            (2, acks(2)),
            (3, vec![TakeRun(2), AckRun, TakeRun(2), AckRun]),
        ];
        explore("runs and singles", 1, Scenario::new(cells, actors));
        // The ring goes round: what was acked as a run is claimed singly, and as another run.
        let actors = vec![
            (
                0,
                vec![ClaimRun(&[1, 2]), Publish, ClaimRun(&[3, 4]), Publish],
            ),
            (1, sends(&[5])),
            (2, vec![TakeRun(3), AckRun, TakeRun(2), AckRun]),
        ];
        explore("runs round the ring", 2, Scenario::new(cells, actors));
    }
}

#[test]
fn a_run_is_taken_in_parts_by_several() {
    for cells in 3..=4 {
        let actors = vec![
            (
                0,
                vec![ClaimRun(&[1, 2, 3]), Publish, ClaimRun(&[4, 5]), Publish],
            ),
            (1, acks(1)),
            (2, vec![TakeRun(2), AckRun]),
            (3, vec![TakeRun(3), AckRun]),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0]);
        explore("parts of a run", 2, sent);
    }
}

#[test]
fn each_message_of_a_run_is_settled_by_itself() {
    for settles in [
        [Ack, Ack, Ack],
        [Nack, Ack, Ack],
        [Ack, Nack, Bury],
        [Bury, Nack, Nack],
    ] {
        for cells in 3..=4 {
            let actors = vec![
                (
                    0,
                    [vec![ClaimRun(&[1, 2, 3]), Publish], sends(&[4])].concat(),
                ),
                (1, [vec![TakeRun(3)], settles.to_vec()].concat()),
                (2, acks(2)),
            ];
            let sent = Scenario::new(cells, actors).prepared([0, 0]);
            explore("settled one by one", 2, sent);
        }
    }
}

#[test]
fn a_leased_run_is_moved_on_as_one() {
    for cells in 3..=4 {
        let actors = vec![
            (
                0,
                vec![
                    ClaimRun(&[1, 2]),
                    Publish,
                    Claim(3),
                    Publish,
                    ClaimRun(&[4, 5]),
                    Publish,
                ],
            ),
            (1, vec![TakeRun(2), AckRun]),
            (2, acks(3)),
            (3, sends(&[6])),
        ];
        let taken = Scenario::new(cells, actors).prepared([0, 0, 1]);
        explore("moved on", 2, taken);
    }
    // The same, while its holder makes single cells of it.
    let actors = vec![
        (
            0,
            [vec![ClaimRun(&[1, 2]), Publish], sends(&[3, 4])].concat(),
        ),
        (1, vec![TakeRun(2), Nack, Ack]),
        (2, acks(3)),
    ];
    let taken = Scenario::new(3, actors).prepared([0, 0, 1]);
    explore("moved on in parts", 2, taken);
}

#[test]
fn a_run_that_is_freed_behind_a_message_is_found() {
    // It is moved on while it is held, and the senders stand before the fourth message.
    let actors = vec![
        (
            0,
            [vec![ClaimRun(&[1, 2]), Publish], sends(&[3, 4, 5, 6, 7])].concat(),
        ),
        (1, vec![TakeRun(2), AckRun]),
        (2, acks(1)),
    ];
    let before = [[0].repeat(6), vec![1, 2, 2], [0].repeat(4)].concat();
    explore("freed behind", 2, Scenario::new(4, actors).prepared(before));
}

#[test]
fn a_run_that_was_stepped_over_keeps_its_order() {
    for cells in 2..=4 {
        let actors = vec![
            (
                0,
                [vec![ClaimRun(&[1, 2]), Publish, Publish], sends(&[4])].concat(),
            ),
            (1, sends(&[3])),
            (2, [[Take].repeat(3), [Ack].repeat(3)].concat()),
        ];
        explore("run stepped over", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn what_is_purged_from_runs_is_gone_and_its_place_is_free() {
    for cells in 2..=3 {
        let actors = vec![
            (
                0,
                vec![ClaimRun(&[1, 2]), Publish, ClaimRun(&[3, 4]), Publish],
            ),
            (1, vec![TakeRun(2), AckRun]),
            (2, vec![Purge]),
            (3, vec![Recover(2), Purge, Take, Ack]),
        ];
        let killing = Scenario::new(cells, actors).killing(1, &[2]);
        explore("purged run", 1, killing);
    }
}

#[test]
fn a_message_is_dropped_from_a_run_by_its_id() {
    for (cells, dropped) in [(2, 1), (2, 2), (3, 2), (3, 3)] {
        let actors = vec![
            (
                0,
                [vec![ClaimRun(&[1, 2, 3]), Publish], sends(&[4])].concat(),
            ),
            (1, vec![TakeRun(2), AckRun]),
            (2, vec![DropMessage(dropped)]),
            (
                3,
                [vec![Recover(2), DropMessage(dropped)], acks(1)].concat(),
            ),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0]);
        explore("dropped from a run", 2, sent.killing(1, &[2]));
    }
}

#[test]
fn a_message_that_waits_is_dropped_once() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, vec![Take, Nack, Take, Ack]),
            (2, vec![DropMessage(1)]),
            (3, vec![Recover(2), DropMessage(1), Take, Ack]),
        ];
        let killing = Scenario::new(cells, actors).killing(1, &[2]);
        explore("dropped by its id", 1, killing);
    }
    let actors = vec![
        (0, vec![Claim(1), PublishAt(10), Claim(2), Publish]),
        (1, vec![Take, Delay(10)]),
        (2, vec![DropMessage(1)]),
        (3, vec![Clock(15), Take, Ack]),
    ];
    explore("delayed and dropped", 2, Scenario::new(2, actors));
}

#[test]
fn a_revoked_lease_is_lost_and_its_message_comes_again() {
    for lease in [None, Some(10)] {
        for cells in 1..=2 {
            let actors = vec![
                (0, sends(&[1, 2])),
                (1, acks(1)),
                (2, vec![Revoke(1)]),
                (3, vec![Recover(2), Recover(1), Revoke(1), Take, Ack]),
            ];
            let mut sent = Scenario::new(cells, actors).prepared([0, 0]);
            if let Some(lease) = lease {
                sent = sent.leasing(lease);
            }
            explore("revoked", 1, sent.killing(1, &[1, 2]));
        }
    }
}

#[test]
fn a_lease_is_revoked_or_put_off_or_extended() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(60), Delay(25)]),
        (2, vec![Revoke(1)]),
        (3, vec![Clock(20), Take, Ack]),
    ];
    let taken = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1]);
    explore("revoked or put off", 2, taken.timing());
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Snooze(25)]),
        (2, vec![Revoke(1), Revoke(1)]),
        (3, vec![Clock(30), Take, Nack]),
    ];
    let taken = Scenario::new(1, actors).prepared([0, 0, 1]).limit(2);
    explore("revoked or snoozed", 2, taken.noting());
}

#[test]
fn a_lease_of_a_run_is_revoked_once_the_run_is_parted() {
    for settles in [[Ack, Ack], [Nack, Ack]] {
        for cells in 2..=3 {
            let actors = vec![
                (0, [vec![ClaimRun(&[1, 2]), Publish], sends(&[3])].concat()),
                (1, [vec![TakeRun(2)], settles.to_vec()].concat()),
                (2, vec![Revoke(1), Revoke(2)]),
                (3, vec![Recover(1), Revoke(2), Take, Ack]),
            ];
            let taken = Scenario::new(cells, actors).prepared([0, 0, 1]);
            explore("revoked of a run", 2, taken.killing(1, &[1]));
        }
    }
    // Acked as one meanwhile.
    let actors = vec![
        (
            0,
            vec![ClaimRun(&[1, 2]), Publish, ClaimRun(&[3, 4]), Publish],
        ),
        (1, vec![TakeRun(2), AckRun]),
        (2, vec![Revoke(2), Revoke(1)]),
        (3, acks(1)),
    ];
    let taken = Scenario::new(2, actors).prepared([0, 0, 1]);
    explore("revoked or acked as one", 3, taken);
}

#[test]
fn who_dies_in_a_run_loses_nothing() {
    for cells in 2..=3 {
        let send = vec![ClaimRun(&[1, 2]), Publish, Publish];
        let takes = vec![TakeRun(2), AckRun, TakeRun(2), AckRun];
        let recovers = |seat| [vec![Recover(seat)], acks(2)].concat();
        let actors = vec![(0, send), (1, acks(2)), (2, recovers(0))];
        let scenario = Scenario::new(cells, actors).killing(1, &[0]);
        explore("dead sender of a run", 2, scenario);
        let actors = vec![
            (0, vec![ClaimRun(&[1, 2]), Publish]),
            (1, takes),
            (2, recovers(1)),
        ];
        let scenario = Scenario::new(cells, actors).killing(1, &[1]);
        explore("dead receiver of a run", 2, scenario);
        let one_by_one = vec![TakeRun(2), Nack, Ack];
        let actors = vec![
            (0, vec![ClaimRun(&[1, 2]), Publish]),
            (1, one_by_one),
            (2, recovers(1)),
        ];
        let scenario = Scenario::new(cells, actors).killing(1, &[1]);
        explore("dead while parting a run", 2, scenario);
    }
}

#[test]
fn a_dead_run_is_recovered_by_two_while_others_use_the_ring() {
    for cells in 2..=3 {
        let actors = vec![
            (0, vec![ClaimRun(&[1, 2]), Publish, Publish]),
            (1, sends(&[3])),
            (2, vec![Recover(0), Take, Ack]),
            (3, vec![Recover(0), Take, Ack]),
            (0, vec![Join, ClaimRun(&[4, 5]), Publish]),
        ];
        let claimed = Scenario::new(cells, actors).prepared([0]);
        explore("dead sender, two recover", 1, claimed.killing(1, &[0]));
        let actors = vec![
            (0, vec![ClaimRun(&[1, 2]), Publish, ClaimRun(&[3]), Publish]),
            (1, vec![TakeRun(2), AckRun]),
            (2, vec![Recover(1), Take, Ack]),
            (3, vec![Recover(1), TakeRun(2), AckRun]),
            (1, vec![Join, TakeRun(2), AckRun]),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0, 1]);
        explore("dead receiver, two recover", 1, sent.killing(2, &[1, 2]));
    }
}

#[test]
fn a_stepped_over_message_moves_to_the_end() {
    for cells in 2..=3 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, sends(&[3])),
            (2, [[Take].repeat(3), [Ack].repeat(3)].concat()),
        ];
        explore(
            "step over",
            1,
            Scenario::new(cells, actors).prepared([0, 1, 1]),
        );
    }
}

#[test]
fn redelivered_messages_are_found_and_their_cells_used_again() {
    for cells in 1..=3 {
        let actors = vec![
            (0, sends(&[1, 2, 3])),
            (1, vec![Take, Take, Nack, Ack]),
            (2, acks(2)),
        ];
        explore("nack", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn messages_snoozed_until_now_are_found() {
    for cells in 1..=3 {
        let actors = vec![
            (0, sends(&[1, 2, 3])),
            (1, vec![Take, Take, Snooze(0), Ack]),
            (2, acks(2)),
        ];
        explore("snoozed until now", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn abandoned_claims_leave_room() {
    for cells in 1..=3 {
        let actors = vec![
            (0, vec![Claim(1), Abandon, Claim(2), Publish]),
            (1, sends(&[3, 4])),
            (2, acks(2)),
        ];
        explore("abandon", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn a_hint_that_was_held_up_for_laps_misleads_nobody() {
    for cells in 1..=3 {
        for hint in [RingWord::Head, RingWord::Tail] {
            let laps = 4 * cells as usize;
            let actors = vec![
                (0, turns(laps)),
                (1, [sends(&[1]), vec![OldHint(hint)], sends(&[2])].concat()),
                (2, acks(2)),
                (3, [vec![OldHint(hint)], acks(1)].concat()),
            ];
            let turned = Scenario::new(cells, actors).prepared([0].repeat(2 * laps));
            explore("held-up hint", 1, turned);
        }
    }
}

#[test]
fn who_found_no_room_finds_what_was_freed_behind_a_message() {
    // The first cell is moved on while its message is held, then freed behind the third's message.
    let actors = vec![(0, sends(&[1, 2, 3, 4, 5, 6])), (1, acks(1)), (2, acks(1))];
    let before = [[0].repeat(6), vec![1, 2, 2, 0, 0, 0, 0]].concat();
    explore("moved on", 2, Scenario::new(3, actors).prepared(before));
    // The first cell is kept by a zombie, then let go behind the second's message.
    let actors = vec![
        (0, sends(&[1, 2, 3, 4])),
        (1, acks(1)),
        (2, acks(1)),
        (3, vec![Clock(20)]),
    ];
    let before = [0, 0, 1, 3, 2, 2, 0, 0, 0, 0];
    let kept = Scenario::new(2, actors).leasing(10).prepared(before);
    explore("let go", 2, kept);
}

#[test]
fn a_message_that_was_stepped_over_twice_is_found() {
    let actors = vec![
        (0, sends(&[1])),
        (1, sends(&[2, 3, 4])),
        (2, [acks(2), [Take].repeat(3)].concat()),
    ];
    // Message 1 was stepped over; its receiver has found nothing more since.
    let before = [vec![0], [1].repeat(4), [2].repeat(5)].concat();
    explore("twice", 2, Scenario::new(4, actors).prepared(before));
}

#[test]
fn what_finds_no_room_at_the_end_is_not_overtaken_by_its_senders_next() {
    let actors = vec![
        (0, sends(&[1, 2])),
        (1, sends(&[3, 4, 5])),
        (2, [acks(1), vec![Take, Take, Ack, Take, Take]].concat()),
    ];
    // Message 1 was stepped over twice, and the other two cells are leased, one of them in turn.
    let before = [vec![0, 1, 1, 2, 2], [1].repeat(4), [2].repeat(2)].concat();
    explore("no room", 2, Scenario::new(3, actors).prepared(before));
}

#[test]
fn a_sender_far_behind_finds_what_is_freed_in_turn() {
    let actors = vec![
        (0, turns(12)),
        (
            1,
            [vec![OldHint(RingWord::Tail)], sends(&[1, 2, 3])].concat(),
        ),
        (2, acks(2)),
    ];
    let turned = Scenario::new(1, actors).prepared([0].repeat(24));
    explore("far behind", 2, turned);
}

#[test]
fn a_sender_that_claimed_far_ahead_keeps_its_order() {
    let again = [Take, Nack].repeat(2);
    for cells in 2..=3 {
        let actors = vec![
            (0, sends(&[1])),
            (1, vec![Claim(2), Publish, Claim(5), Abandon]),
            (2, [again.clone(), acks(1)].concat()),
            (3, sends(&[3, 4])),
            (4, acks(3)),
        ];
        // The first cell is free two laps ahead of the others, which are in use.
        let before = [
            [0].repeat(2),
            [2].repeat(5),
            [1].repeat(cells as usize),
            vec![2],
        ]
        .concat();
        explore(
            "far ahead",
            2,
            Scenario::new(cells, actors).prepared(before),
        );
    }
}

#[test]
fn a_message_behind_two_that_are_being_written_waits_for_neither() {
    let actors = vec![
        (0, sends(&[1])),
        (1, sends(&[2])),
        (2, sends(&[3])),
        (3, acks(1)),
    ];
    let begun = Scenario::new(3, actors).prepared([0, 1, 2, 2]);
    explore("two writers", 2, begun);
}

// --- death
// -------------------------------------------------------------------------------------------

#[test]
fn a_sender_dies_anywhere() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1])),
            (1, sends(&[2])),
            (2, acks(2)),
            (3, vec![Recover(0), Take, Ack]),
        ];
        explore(
            "dead sender",
            1,
            Scenario::new(cells, actors).killing(1, &[0]),
        );
    }
}

#[test]
fn a_sender_dies_while_it_moves_a_message_to_the_end() {
    for cells in 2..=3 {
        let actors = vec![
            (0, sends(&[1])),
            (1, sends(&[2])),
            (2, acks(2)),
            (3, vec![Recover(0), Take, Ack]),
        ];
        let begun = Scenario::new(cells, actors).prepared([0, 1, 1, 2]);
        explore("dead mover", 2, begun.killing(1, &[0]));
    }
}

#[test]
fn a_receiver_dies_anywhere() {
    for cells in 1..=3 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, vec![Take, Ack, Take, Nack, Take, Ack]),
            (2, [vec![Recover(1)], acks(2)].concat()),
        ];
        explore(
            "dead receiver",
            2,
            Scenario::new(cells, actors).killing(1, &[1]),
        );
    }
}

#[test]
fn those_who_found_nothing_find_what_the_dead_left() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Nack]),
        (2, [Take].repeat(3)),
        (3, vec![Recover(1)]),
    ];
    let looked = Scenario::new(2, actors).prepared([2, 0, 0, 1]);
    explore("nothing to take", 2, looked.killing(1, &[1]));
    let actors = vec![
        (0, vec![Claim(1), Abandon]),
        (1, sends(&[2, 3, 4])),
        (3, vec![Recover(0)]),
    ];
    let looked = Scenario::new(2, actors).prepared([1, 1, 0, 1, 1]);
    explore("no room", 2, looked.killing(1, &[0]));
}

#[test]
fn who_recovers_dies_too_and_the_seat_is_taken_again() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1])),
            (1, acks(1)),
            (2, vec![Recover(1), Take, Ack]),
            (3, vec![Recover(1), Recover(2)]),
            (1, vec![Join, Take, Claim(2), Publish]),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0]);
        explore("recovery of a receiver", 1, sent.killing(2, &[1, 2]));
        let actors = vec![
            (0, sends(&[1])),
            (2, vec![Recover(0), Take, Ack]),
            (3, vec![Recover(0)]),
            (0, vec![Join, Claim(2), Publish]),
        ];
        let claimed = Scenario::new(cells, actors).prepared([0]);
        explore("recovery of a sender", 2, claimed.killing(2, &[0, 2]));
    }
}

#[test]
fn a_message_whose_receivers_keep_dying_is_a_dead_letter() {
    let actors = vec![
        (0, sends(&[1])),
        (1, acks(1)),
        (2, vec![Recover(1), Take, Ack]),
        (3, vec![Recover(2), Take, Drop, Claim(2), Publish]),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).limit(2);
    explore("poison", 2, sent.killing(2, &[1, 2]));
}

#[test]
fn a_message_that_is_given_back_too_often_is_a_dead_letter() {
    let actors = vec![(0, sends(&[1])), (1, [Take, Nack].repeat(3))];
    let sent = Scenario::new(1, actors).prepared([0, 0]).limit(2);
    explore("given back", 2, sent);
}

// --- time
// --------------------------------------------------------------------------------------------

#[test]
fn a_lease_expires_while_its_holder_lives() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, acks(1)),
            (2, acks(2)),
            (3, vec![Clock(5), Clock(20)]),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0]).leasing(10);
        explore("expiry", 1, sent);
    }
}

#[test]
fn an_extended_lease_lasts() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(30), Ack]),
        (2, acks(1)),
        (3, vec![Clock(20), Clock(25)]),
        (4, vec![Clock(22)]),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).leasing(10);
    explore("extend", 2, sent);
}

#[test]
fn a_first_record_does_not_undo_an_extension() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(60), Ack]),
        (3, vec![Clock(5), Clock(20)]),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).leasing(10);
    explore("first record", 2, sent);
}

#[test]
fn a_lost_delivery_does_not_extend_the_one_that_its_process_got_after_it() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(90), Ack]),
        (1, acks(1)),
        (3, vec![Clock(20)]),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).leasing(10);
    explore("extend, one seat", 2, sent);
}

#[test]
fn a_message_that_expires_twice_is_poison() {
    let actors = vec![
        (0, sends(&[1])),
        (1, acks(1)),
        (2, acks(1)),
        (3, vec![Clock(20), Clock(40)]),
        (4, vec![Take, Drop, Claim(2), Publish]),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).leasing(10);
    explore("second expiry", 1, sent);
}

#[test]
fn a_zombie_and_the_next_holder_die() {
    let actors = vec![
        (0, sends(&[1])),
        (1, acks(1)),
        (2, acks(1)),
        (3, vec![Clock(20), Clock(40)]),
        (4, vec![Recover(1), Recover(2), Take, Ack, Claim(2)]),
    ];
    let taken = Scenario::new(1, actors).prepared([0, 0, 1]);
    explore("dead zombie", 1, taken.leasing(10).killing(2, &[1, 2]));
}

#[test]
fn two_threads_of_one_process_hold_one_message() {
    let actors = vec![
        (0, sends(&[1])),
        (1, acks(1)),
        (1, acks(1)),
        (3, vec![Clock(20), Clock(40)]),
        (4, acks(1)),
    ];
    let sent = Scenario::new(1, actors).prepared([0, 0]).leasing(10);
    explore("one seat", 1, sent);
}

#[test]
fn a_delayed_message_comes_back() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, vec![Take, Delay(10), Take, Ack]),
            (2, vec![Clock(5), Clock(15)]),
            (3, vec![Clock(15), Take, Ack]),
        ];
        explore("delay", 1, Scenario::new(cells, actors).prepared([0, 0]));
    }
}

#[test]
fn a_message_that_is_put_off_comes_after_its_time() {
    for cells in 1..=2 {
        let actors = vec![
            (0, vec![Claim(1), PublishAt(10), Claim(2), Publish]),
            (1, acks(2)),
            (2, vec![Clock(5), Clock(15)]),
            (3, vec![Clock(15), Recover(0), Take, Ack]),
        ];
        let killing = Scenario::new(cells, actors).killing(1, &[0]);
        explore("put off", 1, killing);
    }
}

#[test]
fn a_message_is_put_off_though_receivers_went_past() {
    let actors = vec![
        (0, vec![Claim(1), PublishAt(10)]),
        (1, sends(&[2])),
        (2, acks(2)),
        (3, vec![Clock(15)]),
    ];
    let begun = Scenario::new(2, actors).prepared([0, 1, 1]);
    explore("put off late", 2, begun);
}

#[test]
fn what_is_purged_is_gone_and_its_place_is_free() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1, 2, 3])),
            (1, vec![Take, Nack, Take, Ack]),
            (2, vec![Purge]),
            (3, vec![Recover(2), Purge, Take, Ack]),
        ];
        let killing = Scenario::new(cells, actors).killing(1, &[2]);
        explore("purge", 1, killing);
    }
}

#[test]
fn a_purge_leaves_what_a_zombie_reads() {
    let actors = vec![
        (0, sends(&[1, 2])),
        (1, acks(1)),
        (2, vec![Clock(20), Purge]),
        (3, acks(1)),
    ];
    let taken = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1]);
    explore("purge of a zombie's", 2, taken);
}

#[test]
fn a_zombie_does_not_move_the_time_of_who_holds_its_message_now() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Delay(25)]),
        (2, vec![Take, Delay(50)]),
        (3, vec![Clock(20), Clock(30), Clock(60)]),
    ];
    let expired = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1, 3]);
    explore("late delay", 2, expired);
}

// --- stops: whoever goes on late changes nothing of a later message ------------------------------

#[test]
fn a_watcher_stopped_over_a_lease_leaves_the_next_messages_delay() {
    for now in [5, 20] {
        let actors = vec![
            (0, vec![Claim(1), Publish, Claim(2), PublishAt(100)]),
            (1, acks(1)),
            (3, vec![Clock(now)]),
            (4, vec![Clock(40), Clock(110)]),
        ];
        let taken = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1]);
        explore("stopped watcher, delay", 2, taken.timing());
    }
}

#[test]
fn a_watcher_stopped_over_a_lease_leaves_the_next_messages_extension() {
    for now in [5, 20] {
        let actors = vec![
            (0, sends(&[1, 2])),
            (1, acks(1)),
            (2, vec![Take, Extend(60)]),
            (3, vec![Clock(now)]),
            (4, vec![Clock(30), Clock(50)]),
        ];
        let taken = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1]);
        explore("stopped watcher, extension", 2, taken.timing());
    }
}

#[test]
fn a_receiver_stopped_while_it_extends_leaves_the_next_ones_extension() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(70)]),
        (2, vec![Take, Extend(90)]),
        (3, vec![Clock(5), Clock(20)]),
        (4, vec![Clock(40), Clock(60)]),
    ];
    let sent = Scenario::new(1, actors).leasing(10).prepared([0, 0]);
    explore("stopped receiver", 2, sent.timing());
}

#[test]
fn a_lease_that_was_put_off_does_not_end() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Delay(35), Take, Delay(25)]),
        (2, acks(1)),
        (3, vec![Clock(20), Clock(40)]),
        (4, vec![Clock(20)]),
    ];
    let taken = Scenario::new(1, actors).leasing(10).prepared([0, 0, 1]);
    explore("put off or over", 2, taken.timing());
}

#[test]
fn whoever_puts_a_message_off_may_die_or_stop() {
    for lease in [None, Some(10)] {
        let actors = vec![
            (0, sends(&[1])),
            (1, vec![Take, Delay(25)]),
            (2, vec![Recover(1), Take, Nack]),
            (3, vec![Clock(20), Clock(30)]),
        ];
        let mut taken = Scenario::new(1, actors).prepared([0, 0, 1]).limit(2);
        if let Some(lease) = lease {
            taken = taken.leasing(lease);
        }
        explore("put off by the dead", 2, taken.noting().killing(1, &[1]));
    }
}

#[test]
fn whoever_snoozes_a_message_may_die_or_stop() {
    for (to, lease) in [(0, None), (25, None), (25, Some(10))] {
        let actors = vec![
            (0, sends(&[1])),
            (1, vec![Take, Snooze(to)]),
            (2, vec![Recover(1), Take, Nack]),
            (3, vec![Clock(20), Clock(30)]),
        ];
        let mut taken = Scenario::new(1, actors).prepared([0, 0, 1]).limit(2);
        if let Some(lease) = lease {
            taken = taken.leasing(lease);
        }
        explore("snoozed by the dead", 2, taken.noting().killing(1, &[1]));
    }
}

#[test]
fn who_is_late_to_put_a_message_off_leaves_the_next_one_of_its_process() {
    let actors = vec![
        (0, sends(&[1, 2])),
        (1, vec![Take, Delay(25)]),
        (1, acks(1)),
        (2, acks(1)),
        (3, vec![Clock(24), Clock(30)]),
    ];
    let taken = Scenario::new(1, actors).prepared([0, 0, 1]);
    explore("put off late, one seat", 2, taken.timing());
}

#[test]
fn a_cause_noted_late_is_nobody_elses() {
    let actors = vec![
        (0, sends(&[1, 2])),
        (1, vec![Take, Nack, Take, Ack]),
        (2, vec![Take, Bury]),
        (3, vec![Clock(20)]),
    ];
    let taken = Scenario::new(1, actors)
        .leasing(10)
        .prepared([0, 0, 1])
        .limit(2);
    explore("late cause", 2, taken.noting());
}

// --- closing, dead letters, chunks
// -------------------------------------------------------------------

#[test]
fn a_closed_queue_is_drained_only_when_no_message_can_come() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1])),
            (1, sends(&[2])),
            (2, acks(2)),
            (3, vec![Take]),
            (4, vec![Close]),
        ];
        explore("close", 1, Scenario::new(cells, actors));
    }
}

#[test]
fn a_message_that_moves_is_not_overlooked_by_who_drains() {
    let actors = vec![
        (0, sends(&[1])),
        (1, sends(&[2])),
        (2, acks(1)),
        (3, vec![Take]),
        (4, vec![Close]),
        (5, turns(1)),
    ];
    // Message 1's cell is the last one, and was stepped over.
    let before = [5, 5, 0, 1, 1, 2, 2, 4];
    explore("drain", 3, Scenario::new(2, actors).prepared(before));
}

#[test]
fn a_dead_letter_is_dropped_or_requeued_by_one() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1])),
            (1, vec![Take, Bury]),
            (2, vec![Drop]),
            (3, vec![Requeue, Take, Ack]),
            (4, vec![Requeue]),
        ];
        let sent = Scenario::new(cells, actors).prepared([0, 0]);
        explore("letters", 2, sent.noting());
    }
}

#[test]
fn a_letter_is_one_still_or_requeued_if_who_requeues_it_dies() {
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Nack]),
        (2, vec![Requeue, Take, Nack, Requeue]),
        (3, vec![Recover(2), Requeue, Take, Ack]),
    ];
    let dead = Scenario::new(1, actors).prepared([0, 0, 1, 1]).limit(1);
    explore("dead requeuer", 2, dead.noting().killing(1, &[2]));
}

#[test]
fn a_requeued_letter_has_all_its_attempts_again() {
    let actors = vec![
        (0, sends(&[1])),
        (1, [Take, Nack].repeat(2)),
        (2, vec![Requeue, Take, Nack, Requeue]),
        (3, vec![Take, Nack, Drop]),
        (4, vec![Requeue]),
    ];
    let dead = Scenario::new(1, actors)
        .prepared([0, 0, 1, 1, 1, 1])
        .limit(2);
    explore("requeued again", 2, dead.noting());
}

#[test]
fn who_lost_its_lease_of_a_letter_does_not_settle_it_after_it_was_requeued() {
    // The one who lost it and the one who has it are threads of one process.
    let actors = vec![
        (0, sends(&[1])),
        (1, vec![Take, Extend(90), Ack]),
        (1, vec![Take, Ack]),
        (3, vec![Clock(20), Requeue, Clock(40)]),
    ];
    let lost = Scenario::new(1, actors)
        .leasing(10)
        .limit(1)
        .prepared([0, 0, 1, 3]);
    explore("requeued from a zombie", 3, lost.noting());
}

#[test]
fn nothing_is_requeued_into_a_queue_that_was_drained() {
    for cells in 1..=2 {
        let actors = vec![
            (0, sends(&[1])),
            (1, vec![Take, Bury]),
            (2, vec![Take, Take]),
            (3, vec![Requeue]),
            (4, vec![Close]),
            (5, sends(&[2])),
        ];
        let buried = Scenario::new(cells, actors).prepared([0, 0, 1, 1]);
        explore("requeue and close", 2, buried);
    }
}

#[test]
fn a_letter_that_two_may_still_read_is_not_requeued() {
    let actors = vec![
        (0, sends(&[1])),
        (1, acks(1)),
        (2, acks(1)),
        (3, vec![Clock(20), Clock(40)]),
        (4, vec![Requeue, Take, Ack]),
    ];
    let taken = Scenario::new(1, actors).prepared([0, 0, 1, 3, 2]);
    explore("letter with zombies", 2, taken.leasing(10));
}

#[test]
fn a_chunk_has_one_message() {
    for (cells, chunks) in [(1, 1), (2, 1), (2, 2), (3, 1)] {
        let actors = vec![(0, sends(&[1, 2])), (1, sends(&[3])), (2, acks(3))];
        let large = Scenario::new(cells, actors).chunks(chunks, 1, &[1; 3]);
        explore(&format!("{chunks} chunks"), 1, large);
    }
}

#[test]
fn a_chunk_of_the_dead_is_free() {
    for (cells, chunks) in [(1, 1), (2, 1), (2, 2)] {
        let actors = vec![
            (0, sends(&[1])),
            (1, sends(&[2])),
            (2, acks(1)),
            (3, vec![Recover(0), Recover(2), Take, Ack]),
        ];
        let large = Scenario::new(cells, actors).chunks(chunks, 1, &[1; 2]);
        explore(&format!("{chunks} chunks"), 1, large.killing(2, &[0, 2]));
    }
}

#[test]
fn a_chunk_moves_with_its_message() {
    let actors = vec![
        (0, sends(&[1])),
        (1, sends(&[2])),
        (2, acks(2)),
        (3, vec![Recover(0), Claim(3)]),
    ];
    let begun = Scenario::new(3, actors)
        .chunks(2, 1, &[1; 3])
        .prepared([0, 1, 1, 2]);
    explore("moving chunk", 1, begun.killing(1, &[0]));
}

/// Message 1 needs one unit, 2 two, and so on.
const LENGTHS: &[u32] = &[1, 2, 3, 4];

#[test]
fn chunks_of_several_lengths_are_split_and_swallowed() {
    for (blocks, block_units) in [(1, 4), (2, 2), (4, 1)] {
        let actors = vec![(0, sends(&[1, 3])), (1, sends(&[2])), (2, acks(2))];
        let large = Scenario::new(2, actors).chunks(blocks, block_units, LENGTHS);
        explore(&format!("{blocks} x {block_units} units"), 2, large);
    }
}

#[test]
fn three_senders_swallow_the_same_chunks() {
    let actors = vec![
        (0, vec![Claim(2), Abandon]),
        (1, vec![Claim(3), Publish]),
        (2, vec![Claim(1), Abandon]),
    ];
    let large = Scenario::new(3, actors).chunks(4, 1, LENGTHS);
    explore("three senders", 2, large);
}

#[test]
fn what_a_dead_sender_was_splitting_or_swallowing_is_allocated_again() {
    for (blocks, block_units) in [(1, 4), (4, 1)] {
        for dying in [1, 2, 3] {
            let actors = vec![
                (0, vec![Claim(dying), Publish]),
                (1, vec![Claim(2), Abandon]),
                (2, vec![Recover(0), Claim(4), Abandon, Claim(1)]),
            ];
            let large = Scenario::new(2, actors).chunks(blocks, block_units, LENGTHS);
            let name = format!("{dying} of {blocks} x {block_units} units");
            explore(&name, 2, large.killing(1, &[0]));
        }
    }
}

#[test]
fn a_dead_sender_leaves_no_units_that_a_living_message_hides() {
    // Message 1 takes what the dead one left, exactly, and stays.
    for (blocks, block_units) in [(1, 4), (4, 1)] {
        for dying in [1, 2, 3] {
            let actors = vec![
                (0, vec![Claim(dying)]),
                (1, vec![Recover(0), Claim(1), Publish]),
                (1, vec![Claim(3), Publish]),
            ];
            let large = Scenario::new(3, actors).chunks(blocks, block_units, LENGTHS);
            let name = format!("left by {dying} of {blocks} x {block_units} units");
            explore(&name, 2, large.killing(1, &[0]));
        }
    }
}

#[test]
fn a_long_chunk_moves_with_its_message() {
    let actors = vec![
        (0, sends(&[2])),
        (1, sends(&[1])),
        (2, acks(2)),
        (3, vec![Recover(0), Claim(3)]),
    ];
    let begun = Scenario::new(3, actors).chunks(1, 4, LENGTHS);
    let begun = begun.prepared([0, 1, 1, 2]).killing(1, &[0]);
    explore("moving long chunk", 1, begun);
}
