//! The tasks over which workers are to be killed.
//!
//! Such a task takes long until it was killed over as often as planned, so whoever holds it meanwhile is in
//! the middle of it for certain. Decides who is to die and when; the killing is the crew's.

use std::collections::HashMap;
use std::time::Duration;

use ipc_queue::MessageId;
use ipc_queue::transport::Holding;

use crate::source::Job;

/// Who is to die over what.
#[derive(Debug)]
pub(crate) struct Doom {
    /// How often each chosen job's first part is to be killed over, until it is sent.
    chosen: HashMap<usize, u8>,
    /// Those sent.
    pending: Vec<Condemned>,
}

#[derive(Debug)]
struct Condemned {
    job: usize,
    message: MessageId,
    deaths: u8,
    /// The attempt that is held now, and since when.
    seen: Option<(u8, Duration)>,
    /// Attempts that were killed.
    killed: u8,
}

/// Somebody in the middle of a task to be killed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) job: usize,
    pub(crate) holding: Holding,
    /// Since when it has been seen to hold the task.
    pub(crate) since: Duration,
}

impl Doom {
    /// How long such a task takes: longer than any kill takes to come.
    pub(crate) const LONG: Duration = Duration::from_secs(10);
    /// For how long a victim is left alone, so that it is in the middle of its task.
    const MIDDLE: Duration = Duration::from_millis(5);

    /// Chooses `kills` open jobs at random, some more than once if there are fewer.
    pub(crate) fn new(jobs: &[Job], kills: usize) -> Self {
        let mut open: Vec<usize> = (0..jobs.len())
            .filter(|job| jobs[*job].result().is_none())
            .collect();
        fastrand::shuffle(&mut open);
        // A file that can't be read comes to no worker.
        let readable = open.iter().filter(|job| jobs[**job].content().is_ok());
        let victims: Vec<&usize> = readable.take(kills).collect();
        let mut chosen: HashMap<usize, u8> = HashMap::new();
        for job in victims.into_iter().cycle().take(kills) {
            let deaths = chosen.entry(*job).or_default();
            *deaths = deaths.saturating_add(1);
        }
        Self {
            chosen,
            pending: Vec::new(),
        }
    }

    /// How often the job that is killed over most often is.
    pub(crate) fn most_deaths(&self) -> u8 {
        self.chosen.values().copied().max().unwrap_or(0)
    }

    /// How often a part is to be killed over.
    pub(crate) fn deaths_of(&self, job: usize, part: u32) -> u8 {
        if part > 0 {
            return 0;
        }
        self.chosen.get(&job).copied().unwrap_or(0)
    }

    /// Such a part was sent.
    pub(crate) fn sent(&mut self, job: usize, deaths: u8, message: MessageId) {
        if deaths > 0 {
            self.chosen.remove(&job);
            self.pending.push(Condemned {
                job,
                message,
                deaths,
                seen: None,
                killed: 0,
            });
        }
    }

    /// Whether somebody is to die over something that was sent.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Who is in the middle of a task to be killed over, of those who hold something at `now`.
    pub(crate) fn victims(&mut self, holdings: &[Holding], now: Duration) -> Vec<Victim> {
        self.pending
            .iter_mut()
            .filter_map(|condemned| condemned.victim(holdings, now))
            .collect()
    }

    /// It was done.
    pub(crate) fn died(&mut self, victim: &Victim) {
        for condemned in &mut self.pending {
            if condemned.message == victim.holding.message {
                condemned.killed = victim.holding.attempt;
            }
        }
        self.pending
            .retain(|condemned| condemned.killed < condemned.deaths);
    }
}

impl Condemned {
    fn victim(&mut self, holdings: &[Holding], now: Duration) -> Option<Victim> {
        let holding = holdings
            .iter()
            .find(|holding| holding.message == self.message)?;
        if holding.attempt <= self.killed {
            return None; // Its death has not been noticed yet.
        }
        let since = match self.seen {
            Some((attempt, since)) if attempt == holding.attempt => since,
            _ => now,
        };
        self.seen = Some((holding.attempt, since));
        (now.saturating_sub(since) >= Doom::MIDDLE).then(|| Victim {
            job: self.job,
            holding: holding.clone(),
            since,
        })
    }
}

#[cfg(test)]
mod tests {
    use ipc_queue::SenderId;

    use super::*;
    use crate::input::Input;

    fn simulated(count: usize) -> Vec<Job> {
        (0..count)
            .map(|_| Job::simulated("task".to_owned(), Duration::ZERO))
            .collect()
    }

    fn holding(attempt: u8) -> Holding {
        Holding {
            holder: "worker-1".to_owned(),
            pid: 1,
            message: message(),
            attempt,
        }
    }

    fn message() -> MessageId {
        MessageId::new(SenderId::default(), 7)
    }

    #[test]
    fn as_many_deaths_as_asked_for_fall_on_the_readable_jobs() {
        let missing = Input {
            path: "no/such/file".into(),
            bytes_hint: Ok(3),
        };
        let mut jobs = simulated(3);
        jobs.insert(1, Job::file(missing));
        let doom = Doom::new(&jobs, 5);
        let deaths: Vec<u8> = (0..4).map(|job| doom.deaths_of(job, 0)).collect();
        assert_eq!(deaths.iter().sum::<u8>(), 5);
        assert_eq!((deaths[1], doom.most_deaths()), (0, 2));
        assert_eq!(doom.deaths_of(0, 1), 0);
        assert_eq!(Doom::new(&[], 5).most_deaths(), 0);
    }

    #[test]
    fn who_holds_a_condemned_task_for_a_while_dies_once_per_attempt() {
        let mut doom = Doom::new(&simulated(1), 2);
        doom.sent(0, 2, message());
        let at = |ms| Duration::from_millis(ms);
        assert_eq!(doom.victims(&[holding(1)], at(100)), []);
        let victims = doom.victims(&[holding(1)], at(105));
        assert_eq!((victims[0].job, victims[0].since), (0, at(100)));
        doom.died(&victims[0]);
        assert_eq!(doom.victims(&[holding(1)], at(200)), [], "dead already");
        assert_eq!(doom.victims(&[holding(2)], at(300)), []);
        let victims = doom.victims(&[holding(2)], at(400));
        doom.died(&victims[0]);
        assert!(!doom.is_pending());
    }
}
