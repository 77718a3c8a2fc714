//! Workers: pull from one partition, do the work, publish the answer, then ack. The answer goes to another partition, where the
//! first for each message wins.
//!
//! The cluster does not fence: it takes an ack from whomever. So a worker looks at its own clock before it says anything, and
//! says nothing when its lease is over.

use super::agenda::{MS, SECOND, Time};
use super::event::{Answer, Ask, Delivery, Event, Outcome, Reply, Step, Who};
use super::mutation::Break;
use super::plan::{ACK_WAIT, ATTEMPTS, MARGIN, PATIENCE, PULL};
use super::world::World;

/// What a worker is at.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    None,
    Pulling {
        call: u32,
    },
    Working {
        call: u32,
        task: Task,
    },
    Answering {
        call: u32,
        task: Task,
        answer: Answer,
    },
    Acking {
        call: u32,
        task: Task,
    },
}

/// A delivery, and until when it is this worker's.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    delivery: Delivery,
    /// By the clock that only goes forward.
    end: Time,
    /// By the wall clock.
    wall_end: i64,
}

impl World {
    /// Which partition a worker serves.
    fn served_by(&self, who: Who) -> u16 {
        let worker = who.host * 2 + u32::from(who.slot % 2);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than there are partitions"
        )]
        let partition = (worker % u32::from(self.plan.partitions)) as u16;
        partition
    }

    pub fn worker_pulls(&mut self, who: Who) {
        let until = self.agenda.now() + PULL;
        let call = self.ask(who, self.served_by(who), Ask::Pull { until });
        self.set_job(who, Job::Pulling { call });
        self.agenda.add_at(
            until + 100 * MS,
            Event::Step {
                who,
                step: Step::Missing { call },
            },
        );
    }

    fn set_job(&mut self, who: Who, job: Job) {
        *self.hosts[who.host as usize].job(who.slot) = job;
    }

    fn wall_clock(&self, host: u32) -> i64 {
        self.agenda.now().cast_signed() + self.hosts[host as usize].clock_offset
    }

    /// Whether a worker may still speak for what it was given.
    fn holds(&self, who: Who, task: &Task) -> bool {
        match self.plan.broken {
            Some(Break::SettleAfterAckWait) => true,
            Some(Break::LeaseByWallClock) => self.wall_clock(who.host) < task.wall_end,
            _ => self.agenda.now() < task.end,
        }
    }

    pub fn worker_hears(&mut self, who: Who, call: u32, reply: Reply) {
        let job = *self.hosts[who.host as usize].job(who.slot);
        match (job, reply) {
            (Job::Pulling { call: asked }, Reply::Delivery(delivery)) if asked == call => {
                self.begin_work(who, call, delivery);
            }
            (
                Job::Answering {
                    call: asked,
                    task,
                    answer,
                },
                Reply::Answered { is_first },
            ) if asked == call => {
                self.ledger.told(&answer, is_first, self.agenda.now());
                if self.plan.is_broken(Break::AckBeforeAnswer) {
                    self.worker_pulls(who);
                } else {
                    self.acknowledge(who, task);
                }
            }
            (Job::Acking { call: asked, task }, Reply::Acked) if asked == call => {
                self.acked(who, task)
            }
            _ => {}
        }
    }

    fn begin_work(&mut self, who: Who, call: u32, delivery: Delivery) {
        self.ledger.worked(delivery.message);
        let takes = match self.rng.u32(..2000) {
            0 => self.rng.u64(SECOND..2 * ACK_WAIT),
            1..100 => self.rng.u64(20 * MS..SECOND),
            _ => self.rng.u64(MS..20 * MS),
        };
        let lasts = ACK_WAIT - MARGIN;
        let task = Task {
            delivery,
            end: self.agenda.now() + lasts,
            wall_end: self.wall_clock(who.host) + lasts.cast_signed(),
        };
        self.set_job(who, Job::Working { call, task });
        self.agenda.add_after(
            takes,
            Event::Step {
                who,
                step: Step::Done { call },
            },
        );
    }

    pub fn worker_is_done(&mut self, who: Who, call: u32) {
        let Job::Working { call: begun, task } = *self.hosts[who.host as usize].job(who.slot)
        else {
            return;
        };
        if begun != call {
            return;
        }
        let Delivery {
            message, attempt, ..
        } = task.delivery;
        let is_past_limit = attempt > ATTEMPTS && !self.plan.is_broken(Break::NoAttemptLimit);
        if self.ledger.is_poison(message) && !is_past_limit {
            return self.kill(who);
        }
        if self.plan.is_broken(Break::AckBeforeAnswer) {
            return self.acknowledge(who, task);
        }
        let outcome = if is_past_limit {
            Outcome::DeadLetter
        } else {
            Outcome::Done
        };
        self.first_answer(who, task, outcome);
    }

    fn first_answer(&mut self, who: Who, task: Task, outcome: Outcome) {
        let answer = Answer {
            message: task.delivery.message,
            token: self.ledger.token(),
            outcome,
            is_late: false,
        };
        self.answer(who, task, answer);
    }

    fn answer(&mut self, who: Who, task: Task, mut answer: Answer) {
        if !self.holds(who, &task) {
            return self.give_up(who);
        }
        answer.is_late = self.agenda.now() >= task.end;
        let call = self.ask(
            who,
            self.ledger.answers_of(answer.message),
            Ask::Answer(answer),
        );
        self.set_job(who, Job::Answering { call, task, answer });
        self.agenda.add_after(
            PATIENCE,
            Event::Step {
                who,
                step: Step::Missing { call },
            },
        );
    }

    fn acknowledge(&mut self, who: Who, task: Task) {
        if !self.holds(who, &task) {
            return self.give_up(who);
        }
        let Delivery {
            sequence, message, ..
        } = task.delivery;
        let call = self.ask(who, self.served_by(who), Ask::Ack { sequence, message });
        self.set_job(who, Job::Acking { call, task });
        self.agenda.add_after(
            PATIENCE,
            Event::Step {
                who,
                step: Step::Missing { call },
            },
        );
    }

    fn acked(&mut self, who: Who, task: Task) {
        if self.plan.is_broken(Break::AckBeforeAnswer) {
            self.first_answer(who, task, Outcome::Done);
        } else {
            self.worker_pulls(who);
        }
    }

    /// Its lease is lost: somebody else gets the message, or has it.
    fn give_up(&mut self, who: Who) {
        self.ledger.leases_lost += 1;
        self.worker_pulls(who);
    }

    pub fn worker_misses(&mut self, who: Who, call: u32) {
        match *self.hosts[who.host as usize].job(who.slot) {
            Job::Pulling { call: asked } if asked == call => self.worker_pulls(who),
            Job::Answering {
                call: asked,
                task,
                answer,
            } if asked == call => {
                self.reconnect(who.host);
                self.answer(who, task, answer);
            }
            Job::Acking { call: asked, task } if asked == call => {
                self.reconnect(who.host);
                self.acknowledge(who, task);
            }
            _ => {}
        }
    }
}
