//! The accounts of workers that may be killed between any two of their replies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::order::Reply;

/// The known fate of each message.
#[derive(Default)]
pub struct Ledger {
    /// The number of its acks that were reported as accepted.
    acks: BTreeMap<u64, u64>,
    /// Messages whose ack may have been accepted: the worker died before it reported that.
    uncertain: BTreeSet<u64>,
}

impl Ledger {
    /// Enters all replies of one worker.
    pub fn enter(&mut self, replies: &[Reply]) {
        let mut settling = None;
        for reply in replies {
            match reply {
                Reply::Settling(number) => settling = Some(*number),
                Reply::Acked(number) => {
                    self.acked([*number]);
                    settling = None;
                }
                _ => {}
            }
        }
        self.uncertain.extend(settling);
    }

    /// Enters messages whose ack was accepted.
    pub fn acked(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            *self.acks.entry(number).or_default() += 1;
        }
    }

    /// Checks that each sent message was acked once, and each uncertain one at most once.
    pub fn check(&self, sent: impl IntoIterator<Item = u64>) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for number in sent {
            wanted.insert(number);
            let acks = self.acks.get(&number).copied().unwrap_or(0);
            ensure!(acks < 2, "message {number} was acked {acks} times");
            let gone = acks == 0 && !self.uncertain.contains(&number);
            ensure!(!gone, "message {number} was lost");
        }
        let strange = self.acks.keys().find(|number| !wanted.contains(number));
        ensure!(strange.is_none(), "no process sent message {strange:?}");
        Ok(())
    }
}
