//! What is explored.

use super::actor::Do::{self, *};
use super::explorer::{Scenario, check};

fn sends(messages: &[u8]) -> Vec<Do> {
    messages.iter().flat_map(|m| [Claim(*m), Publish]).collect()
}

fn acks(times: usize) -> Vec<Do> {
    [Take, Ack].repeat(times)
}

#[test]
fn one_sender_one_receiver_one_cell() {
    let s = Scenario::new(1, vec![(0, sends(&[1, 2])), (1, acks(3))]);
    check("1s1r", &s);
}

#[test]
fn two_senders_one_receiver() {
    let s = Scenario::new(2, vec![(0, sends(&[1, 2])), (1, sends(&[3])), (2, acks(3))]);
    check("2s1r", &s);
}
