//! A picture of a run: which worker did which task when, and which died doing it.
//!
//! A [`Timeline`] collects events, in any order, and draws one lane per worker. A bar is a task. A
//! cross shows that the worker was killed. A mark shows that a task of another worker was delivered
//! to it again. This file has the events and assigns them to lanes; the drawing is in `svg`, on top
//! of `scale` and `pen`.
//!
//! Reads no clock: all times are seconds since the caller's zero.

mod pen;
mod scale;
mod svg;

use std::collections::BTreeMap;
use std::io;

/// The events of a run.
///
/// ```
/// use ipc_demo::timeline::{Kill, Outcome, Redelivery, TaskSpan, Timeline};
///
/// let task = |worker: &str, start_s, end_s, outcome| TaskSpan {
///     worker: worker.into(), start_s, end_s, what: "cat.png".into(), outcome,
/// };
/// let mut timeline = Timeline::default();
/// timeline.add_task(task("worker-1", 0.0, 0.4, Outcome::Lost));
/// timeline.add_kill(Kill { worker: "worker-1".into(), at_s: 0.4, pid: 4242 });
/// let at_s = 0.5;
/// timeline.add_redelivery(Redelivery { worker: "worker-2".into(), at_s, what: "cat.png".into() });
/// timeline.add_task(task("worker-2", 0.5, 0.9, Outcome::Acked));
///
/// let svg = timeline.to_svg("One task, two workers")?;
/// assert!(svg.starts_with("<svg") && svg.contains("worker-2"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    tasks: Vec<TaskSpan>,
    kills: Vec<Kill>,
    redeliveries: Vec<Redelivery>,
}

/// One delivery of a task to a worker, from its start to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpan {
    /// The name of the worker.
    pub worker: String,
    /// The time at which it took the task, in seconds.
    pub start_s: f64,
    /// The time at which it acknowledged or lost the task, in seconds.
    pub end_s: f64,
    /// The name of the task, such as a path. Of a path, only the last part is drawn.
    pub what: String,
    /// The way in which it ended.
    pub outcome: Outcome,
}

/// The way in which a worker's time with a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The worker did it and acknowledged it.
    Acked,
    /// The worker was killed or returned the task.
    Lost,
}

/// The end of a worker's process.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// The name of the worker; its next process may have the same name.
    pub worker: String,
    /// The time, in seconds.
    pub at_s: f64,
    /// The process that was killed.
    pub pid: u32,
}

/// The moment at which a lost task came to a worker again.
#[derive(Clone, Debug, PartialEq)]
pub struct Redelivery {
    /// The name of the worker that got it this time.
    pub worker: String,
    /// The time, in seconds.
    pub at_s: f64,
    /// The name of the task. Not drawn: the bar under the mark has it, if there is room.
    pub what: String,
}

impl Timeline {
    /// Adds a worker's time with a task. One that does not end after it began has no length.
    pub fn add_task(&mut self, task: TaskSpan) {
        self.tasks.push(task);
    }

    /// Adds the death of a worker.
    pub fn add_kill(&mut self, kill: Kill) {
        self.kills.push(kill);
    }

    /// Adds the return of a task.
    pub fn add_redelivery(&mut self, redelivery: Redelivery) {
        self.redeliveries.push(redelivery);
    }

    /// An SVG document under this title. It needs no fonts here: the viewer's sans-serif is used.
    ///
    /// Tasks that are too short to be distinguished are drawn as one bar. So the document grows
    /// with the number of workers and failures, not with the number of tasks. A lost task is never
    /// too small to be seen.
    ///
    /// # Errors
    ///
    /// An error of the drawing library; none is known.
    pub fn to_svg(&self, title: &str) -> io::Result<String> {
        svg::draw(self, title).map_err(|error| io::Error::other(error.to_string()))
    }

    /// The number of tasks that ended this way.
    fn count(&self, outcome: Outcome) -> usize {
        self.tasks
            .iter()
            .filter(|task| task.outcome == outcome)
            .count()
    }

    /// The time of the last event.
    fn end_s(&self) -> f64 {
        let ends = self.tasks.iter().map(|task| task.end_s.max(task.start_s));
        let marks = self.redeliveries.iter().map(|redelivery| redelivery.at_s);
        let kills = self.kills.iter().map(|kill| kill.at_s);
        ends.chain(marks)
            .chain(kills)
            .filter(|at_s| at_s.is_finite())
            .fold(0.0, f64::max)
    }

    /// The events of each worker, `worker-2` before `worker-10`.
    fn lanes(&self) -> Vec<Lane<'_>> {
        let mut lanes = BTreeMap::new();
        for task in &self.tasks {
            lane(&mut lanes, &task.worker).tasks.push(task);
        }
        for kill in &self.kills {
            lane(&mut lanes, &kill.worker).kills.push(kill);
        }
        for redelivery in &self.redeliveries {
            lane(&mut lanes, &redelivery.worker)
                .redeliveries
                .push(redelivery);
        }
        lanes.into_values().collect()
    }
}

/// The events of one worker.
struct Lane<'a> {
    worker: &'a str,
    tasks: Vec<&'a TaskSpan>,
    kills: Vec<&'a Kill>,
    redeliveries: Vec<&'a Redelivery>,
}

/// Shorter names first: names that differ only in their number are then ordered by it.
type Lanes<'a> = BTreeMap<(usize, &'a str), Lane<'a>>;

fn lane<'l, 'a>(lanes: &'l mut Lanes<'a>, worker: &'a str) -> &'l mut Lane<'a> {
    lanes.entry((worker.len(), worker)).or_insert_with(|| Lane {
        worker,
        tasks: Vec::new(),
        kills: Vec::new(),
        redeliveries: Vec::new(),
    })
}

impl<'a> Lane<'a> {
    fn count(&self, outcome: Outcome) -> usize {
        self.tasks
            .iter()
            .filter(|task| task.outcome == outcome)
            .count()
    }

    /// The tasks as bars, in order. Neighbours of the same outcome become one bar if they are less
    /// than `gap_s` apart, and either is shorter than `thin_s`.
    fn bars(&self, gap_s: f64, thin_s: f64) -> Vec<Bar<'a>> {
        let mut bars: Vec<Bar<'a>> = self.tasks.iter().map(|task| Bar::of(task)).collect();
        bars.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
        bars.dedup_by(|next, bar| {
            let merged = bar.melts_with(next, gap_s, thin_s);
            if merged {
                bar.end_s = bar.end_s.max(next.end_s);
                bar.what = None;
            }
            merged
        });
        bars
    }
}

/// One task, or several that are too short to be distinguished.
#[derive(Debug, PartialEq)]
struct Bar<'a> {
    start_s: f64,
    end_s: f64,
    outcome: Outcome,
    /// `None` for several.
    what: Option<&'a str>,
}

impl<'a> Bar<'a> {
    fn of(task: &'a TaskSpan) -> Self {
        let start_s = task.start_s.max(0.0);
        Self {
            start_s,
            end_s: task.end_s.max(start_s),
            outcome: task.outcome,
            what: Some(&task.what),
        }
    }

    fn melts_with(&self, next: &Self, gap_s: f64, thin_s: f64) -> bool {
        let thin = |bar: &Self| bar.end_s - bar.start_s < thin_s;
        let close = next.start_s - self.end_s < gap_s;
        close && self.outcome == next.outcome && (thin(self) || thin(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_ordered_by_number_and_include_workers_that_were_only_killed() {
        let mut timeline = Timeline::default();
        timeline.add_task(task("worker-10", 0.0, 1.0, Outcome::Acked));
        timeline.add_task(task("worker-2", 0.0, 1.0, Outcome::Acked));
        timeline.add_kill(Kill {
            worker: "worker-1".into(),
            at_s: 2.0,
            pid: 1,
        });
        let lanes = timeline.lanes();
        let names: Vec<&str> = lanes.iter().map(|lane| lane.worker).collect();
        assert_eq!(names, ["worker-1", "worker-2", "worker-10"]);
        assert_eq!(timeline.end_s(), 2.0);
    }

    #[test]
    fn short_neighbouring_tasks_merge_but_a_lost_one_does_not() {
        let mut timeline = Timeline::default();
        for i in 0..100 {
            let outcome = if i == 50 {
                Outcome::Lost
            } else {
                Outcome::Acked
            };
            timeline.add_task(task(
                "w",
                f64::from(i) * 0.01,
                f64::from(i) * 0.01 + 0.009,
                outcome,
            ));
        }
        let lanes = timeline.lanes();
        let bars = lanes[0].bars(0.1, 0.1);
        let outcomes: Vec<Outcome> = bars.iter().map(|bar| bar.outcome).collect();
        assert_eq!(outcomes, [Outcome::Acked, Outcome::Lost, Outcome::Acked]);
        assert_eq!((bars[0].start_s, bars[2].what), (0.0, None));
        assert_eq!(lanes[0].bars(0.1, 0.001).len(), 100);
    }

    #[test]
    fn short_tasks_far_apart_and_long_ones_close_together_stay_apart() {
        let mut timeline = Timeline::default();
        for (start_s, end_s) in [(0.0, 0.01), (1.0, 1.01), (2.0, 3.0), (3.0, 4.0)] {
            timeline.add_task(task("w", start_s, end_s, Outcome::Acked));
        }
        assert_eq!(timeline.lanes()[0].bars(0.1, 0.1).len(), 4);
        assert_eq!(timeline.lanes()[0].bars(0.1, 2.0).len(), 3);
    }

    pub(super) fn task(worker: &str, start_s: f64, end_s: f64, outcome: Outcome) -> TaskSpan {
        TaskSpan {
            worker: worker.into(),
            start_s,
            end_s,
            what: "some/file.txt".into(),
            outcome,
        }
    }
}
