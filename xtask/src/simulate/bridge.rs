//! The bridge: moves messages from the host's queue to the cluster. Acks in the queue when the cluster has confirmed, and not before;
//! until then it publishes again, with the same id. Whoever kills it makes it publish once more.

use super::agenda::{MS, Time};
use super::event::{Ask, Event, Message, Reply, Step, Who};
use super::ledger::Guarantee;
use super::local_queue::Lease;
use super::mutation::Break;
use super::plan::{PATIENCE, WINDOW};
use super::world::World;

/// A message under way.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    lease: Lease,
    message: Message,
    call: u32,
    /// When to ask again.
    again_at: Time,
}

const WAKES: Time = 250 * MS;
/// After which a message that there was no room for is tried again.
const ROOM: Time = 200 * MS;

impl World {
    pub fn bridge_wakes(&mut self, who: Who) {
        self.agenda.add_after(
            WAKES,
            Event::Step {
                who,
                step: Step::Wake,
            },
        );
        let now = self.agenda.now();
        let host = &mut self.hosts[who.host as usize];
        host.queue.expire(now);
        let overdue = |held: &Held| held.again_at <= now;
        if host.bridge().iter().any(overdue) {
            self.reconnect(who.host);
        }
        let mut index = 0;
        while let Some(held) = self.hosts[who.host as usize].bridge().get(index).copied() {
            if !overdue(&held) {
                index += 1;
            } else if self.plan.is_broken(Break::AckOnTimeout) {
                self.bridge_settles(who, index);
            } else {
                self.bridge_publishes(who, index);
                index += 1;
            }
        }
        self.bridge_takes(who);
    }

    /// Takes what there is, as long as not too much is under way.
    pub fn bridge_takes(&mut self, who: Who) {
        let now = self.agenda.now();
        loop {
            let host = &mut self.hosts[who.host as usize];
            let index = host.bridge().len();
            if index >= WINDOW {
                return;
            }
            let Some((lease, message)) = host.queue.receive(who, now) else {
                return;
            };
            let held = Held {
                lease,
                message,
                call: 0,
                again_at: now,
            };
            host.bridge().push(held);
            if self.plan.is_broken(Break::AckBeforePublish) {
                host.queue.ack(lease, None);
            }
            self.bridge_publishes(who, index);
        }
    }

    fn bridge_publishes(&mut self, who: Who, index: usize) {
        let message = self.hosts[who.host as usize].bridge()[index].message;
        let key = if self.plan.is_broken(Break::FreshIds) {
            self.rng.u32(..)
        } else {
            message
        };
        let ask = Ask::Publish { message, key };
        let call = self.ask(who, self.ledger.partition_of(message), ask);
        let again_at = self.agenda.now() + PATIENCE;
        let held = &mut self.hosts[who.host as usize].bridge()[index];
        (held.call, held.again_at) = (call, again_at);
    }

    pub fn bridge_hears(&mut self, who: Who, call: u32, reply: Reply) {
        let now = self.agenda.now();
        let bridge = self.hosts[who.host as usize].bridge();
        let Some(index) = bridge.iter().position(|held| held.call == call) else {
            return;
        };
        match reply {
            Reply::Stored => self.bridge_settles(who, index),
            _ => bridge[index].again_at = now + ROOM,
        }
        self.bridge_takes(who);
    }

    fn bridge_settles(&mut self, who: Who, index: usize) {
        let now = self.agenda.now();
        let host = &mut self.hosts[who.host as usize];
        let held = host.bridge().remove(index);
        self.ledger.accept(held.message, Guarantee::Cluster, now);
        if !host.queue.ack(held.lease, self.plan.broken) {
            self.ledger.leases_lost += 1;
        }
    }
}
