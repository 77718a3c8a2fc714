//! Senders: two of each host send into its queue, one to the cluster at once.

use super::agenda::{SECOND, Time};
use super::event::{Ask, Event, Message, Reply, Step, Who};
use super::host::{BRIDGE, SENDERS};
use super::ledger::Guarantee;
use super::plan::{PATIENCE, TRIES};
use super::world::World;

/// What a direct sender waits for.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    message: Message,
    call: u32,
    tries: u8,
}

/// One in so many sends is of many messages with one key.
const BURSTS: u32 = 150;
const BURST: u32 = 100;
const RING: Time = 20;

impl World {
    pub fn sender_wakes(&mut self, who: Who) {
        if self.agenda.now() >= self.plan.calm_at() {
            return;
        }
        let next = self.pause_between_sends();
        self.agenda.add_after(
            next,
            Event::Step {
                who,
                step: Step::Wake,
            },
        );
        let key = self.rng.u32(..);
        let is_burst = self.rng.u32(..BURSTS) == 0;
        for _ in 0..if is_burst { BURST } else { 1 } {
            self.send_locally(who, key);
        }
    }

    fn pause_between_sends(&mut self) -> Time {
        let each = self.plan.rate / SENDERS.len() as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive time"
        )]
        let pause = (-self.rng.f64().max(1e-9).ln() / each * SECOND as f64) as Time;
        pause
    }

    fn send_locally(&mut self, who: Who, key: u32) {
        let message = self.new_message(who, key);
        let host = &mut self.hosts[who.host as usize];
        let Some(cell) = host.queue.claim(who) else {
            self.ledger.refused += 1;
            return;
        };
        let is_doomed = host.process(who.slot).is_doomed;
        if is_doomed && self.rng.bool() {
            return self.kill(who);
        }
        host.queue.publish(cell, message);
        if is_doomed {
            // Before `send` returned.
            return self.kill(who);
        }
        self.ledger
            .accept(message, Guarantee::Host, self.agenda.now());
        let bridge = host.process(BRIDGE);
        if bridge.is_alive {
            let who = Who::of(who.host, BRIDGE, bridge.life);
            self.agenda.add_after(
                RING,
                Event::Step {
                    who,
                    step: Step::Rung,
                },
            );
        }
    }

    pub fn direct_sender_wakes(&mut self, who: Who) {
        if self.agenda.now() >= self.plan.calm_at() {
            return;
        }
        let next = self.pause_between_sends();
        self.agenda.add_after(
            next,
            Event::Step {
                who,
                step: Step::Wake,
            },
        );
        if self.hosts[who.host as usize].under_way(who.slot).is_none() {
            let key = self.rng.u32(..);
            let message = self.new_message(who, key);
            self.publish_directly(who, message, 0);
        }
    }

    fn publish_directly(&mut self, who: Who, message: Message, tries: u8) {
        let ask = Ask::Publish {
            message,
            key: message,
        };
        let call = self.ask(who, self.ledger.partition_of(message), ask);
        let under_way = UnderWay {
            message,
            call,
            tries,
        };
        *self.hosts[who.host as usize].under_way(who.slot) = Some(under_way);
        self.agenda.add_after(
            PATIENCE,
            Event::Step {
                who,
                step: Step::Missing { call },
            },
        );
    }

    /// Asks again, through another server; in the end it tells its caller that it does not know.
    pub fn direct_sender_misses(&mut self, who: Who, call: u32) {
        let slot = self.hosts[who.host as usize].under_way(who.slot);
        if let Some(UnderWay { message, tries, .. }) =
            slot.take_if(|under_way| under_way.call == call)
            && tries < TRIES
        {
            self.reconnect(who.host);
            self.publish_directly(who, message, tries + 1);
        }
    }

    pub fn direct_sender_hears(&mut self, who: Who, call: u32, reply: Reply) {
        let slot = self.hosts[who.host as usize].under_way(who.slot);
        let Some(UnderWay { message, .. }) = slot.take_if(|under_way| under_way.call == call)
        else {
            return;
        };
        match reply {
            Reply::Stored => self
                .ledger
                .accept(message, Guarantee::Cluster, self.agenda.now()),
            _ => self.ledger.refused += 1,
        }
    }

    fn new_message(&mut self, who: Who, key: u32) -> Message {
        const POISONOUS: u32 = 500;
        let is_poison = self.rng.u32(..POISONOUS) == 0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than there are partitions"
        )]
        let partition = (key % u32::from(self.plan.partitions)) as u16;
        self.ledger
            .offer(who.host, partition, self.plan.partitions, is_poison)
    }
}
