//! The effects of killing, stopping and forking processes, tested with real ones: a simulated death
//! proves nothing about the kernel.
#![cfg(target_os = "linux")]

mod deaths;
mod events;
mod forks;
mod identity;
mod metrics;
mod reasons;
mod stage;
mod stops;
mod storm;
mod together;
mod truncated;
mod weight;

/// Not a test, unless this binary was started as another test's process.
#[test]
fn role() {
    let Some((role, queue)) = stage::our_role() else {
        return;
    };
    let mut words = role.split(' ');
    match words.next() {
        Some("puppet") => stage::puppet(&queue()),
        Some("fork") => forks::fork_and_use(queue),
        Some("fork-and-wait") => forks::fork_and_wait(&queue()),
        Some("sender") => storm::send_for_ever(&queue(), words.next().unwrap().parse().unwrap()),
        Some("cut") => truncated::be_cut(&queue(), words.next().unwrap()),
        Some("identity") => identity::play(queue, words.next().unwrap()),
        Some("reasons") => reasons::fail_for_ever(&queue()),
        Some("batch") => together::hold(&queue()),
        Some("receiver") => storm::receive_for_ever(&queue()),
        _ => panic!("there is no role {role:?}"),
    }
}
