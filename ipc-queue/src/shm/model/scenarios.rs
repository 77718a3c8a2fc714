//! What is explored.

use super::actor::Do::{self, *};
use super::explorer::{Scenario, check};

fn sends(messages: &[u8]) -> Vec<Do> {
    messages.iter().flat_map(|m| [Claim(*m), Publish]).collect()
}

fn acks(times: usize) -> Vec<Do> {
    [Take, Ack].repeat(times)
}

fn all<const N: usize>(parts: [&[Do]; N]) -> Vec<Do> {
    parts.concat()
}

fn bound() -> u8 {
    std::env::var("MODEL_PREEMPTIONS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(2)
}

#[test]
fn a_two_senders_one_receiver() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![(0, sends(&[1, 2])), (1, sends(&[3])), (2, acks(3))],
        );
        check("2s1r", &s.clone().preempted(bound()));
        check("2s1r h", &s.with_hints().preempted(bound()));
    }
}

#[test]
fn b_one_sender_two_receivers() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![(0, sends(&[1, 2, 3])), (1, acks(2)), (2, acks(2))],
        );
        check("1s2r", &s.clone().preempted(bound()));
        check("1s2r h", &s.with_hints().preempted(bound()));
    }
}

#[test]
fn c_two_two() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, sends(&[3, 4])),
                (2, acks(2)),
                (3, acks(2)),
            ],
        );
        check("2s2r", &s.clone().preempted(bound()));
    }
}

#[test]
fn d_nack() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2, 3])),
                (1, vec![Take, Take, Nack, Ack, Take, Ack]),
                (2, acks(2)),
            ],
        );
        check("nack", &s.clone().preempted(bound()));
    }
}

#[test]
fn e_crash() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, sends(&[3])),
                (2, acks(3)),
                (3, vec![Recover(0), Take, Ack]),
            ],
        )
        .killing(1, &[0]);
        check("crash sender", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, vec![Take, Ack, Take, Nack, Take, Ack]),
                (2, all([&[Recover(1)], &acks(2)])),
            ],
        )
        .killing(1, &[1]);
        check("crash receiver", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, vec![Take, Ack]),
                (2, all([&[Recover(1)], &acks(2)])),
                (3, vec![Recover(1), Take, Ack]),
                (1, vec![Join, Take, Ack, Claim(3), Publish]),
            ],
        )
        .killing(2, &[1, 2]);
        check(
            "crash receiver, recoverer, rejoin",
            &s.clone().preempted(bound()),
        );
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1])),
                (1, vec![Take, Ack]),
                (2, all([&[Recover(0)], &acks(1)])),
                (3, vec![Recover(0), Take, Ack]),
                (0, vec![Join, Claim(3), Publish]),
            ],
        )
        .killing(2, &[0, 2]);
        check(
            "crash sender, recoverer, rejoin",
            &s.clone().preempted(bound()),
        );
    }
}

#[test]
fn f_lease() {
    for cells in 1..=2 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, vec![Take, Ack]),
                (2, vec![Take, Ack, Take, Ack]),
                (3, vec![Clock(5), Clock(20)]),
            ],
        )
        .leasing(10);
        check("expiry", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1])),
                (1, vec![Take, Extend(30), Ack]),
                (2, vec![Take, Ack]),
                (3, vec![Clock(20), Clock(25)]),
            ],
        )
        .leasing(10);
        check("extend", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1])),
                (1, vec![Take, Ack]),
                (2, vec![Take, Ack]),
                (3, vec![Clock(20), Clock(40), Clock(60)]),
                (4, vec![Take, Drop, Claim(2), Publish]),
            ],
        )
        .leasing(10);
        check("twice", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1])),
                (1, vec![Take, Ack]),
                (2, vec![Take, Ack]),
                (3, vec![Clock(20), Clock(40)]),
                (4, vec![Recover(1), Take, Ack]),
            ],
        )
        .leasing(10)
        .killing(1, &[1]);
        check("expiry crash", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1])),
                (1, vec![Take, Ack]),
                (1, vec![Take, Ack]),
                (3, vec![Clock(20), Clock(40)]),
                (4, vec![Take, Ack]),
            ],
        )
        .leasing(10);
        check("same seat", &s.clone().preempted(bound()));
    }
}

#[test]
fn g_close() {
    for cells in 1..=3 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, sends(&[3])),
                (2, acks(3)),
                (3, vec![Take, Ack, Take, Ack]),
                (4, vec![Close]),
            ],
        );
        check("close", &s.clone().preempted(bound()));
    }
}

#[test]
fn h_chunks() {
    for cells in 1..=2 {
        for chunks in 1..=2 {
            let s = Scenario::new(
                cells,
                vec![(0, sends(&[1, 2])), (1, sends(&[3])), (2, acks(3))],
            )
            .chunks(chunks);
            check("chunks", &s.clone().preempted(bound()));
            let s = Scenario::new(
                cells,
                vec![
                    (0, sends(&[1])),
                    (1, sends(&[2, 3])),
                    (2, vec![Take, Ack]),
                    (3, vec![Recover(0), Recover(2), Take, Ack]),
                ],
            )
            .chunks(chunks)
            .killing(2, &[0, 2]);
            check("chunks crash", &s.clone().preempted(bound()));
        }
    }
}

#[test]
fn i_letters() {
    for cells in 1..=2 {
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, vec![Take, Bury, Take, Nack]),
                (2, vec![Drop]),
                (3, vec![TakeDead, Claim(3), Publish, Ack, Take, Ack]),
            ],
        )
        .limit(1);
        check("letters", &s.clone().preempted(bound()));
        let s = Scenario::new(
            cells,
            vec![
                (0, sends(&[1, 2])),
                (1, vec![Take, Delay(10), Take, Ack]),
                (2, vec![Clock(5), Clock(15)]),
            ],
        );
        check("delay", &s.clone().preempted(bound()));
    }
}
#[test]
fn z() {
        let s = Scenario::new(2, vec![(0, sends(&[1, 2])), (1, vec![Take, Ack]), (2, all([&[Recover(1)], &acks(2)])), (3, vec![Recover(1)]), (1, vec![Join, Take, Ack, Claim(3), Publish])]).killing(2, &[1,2]);
        check("crash receiver, recoverer, rejoin", &s.clone().preempted(bound()));
}
