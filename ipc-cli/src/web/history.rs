//! The last hour of each queue, in a bounded ring of samples.
//!
//! A sample keeps counters, not rates, so the mean rate between two samples is exact. Memory is
//! bounded by the number of queues and of samples.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ipc_queue::QueueStats;
use serde_json::{Value, json};

/// Minimum time between two samples that are kept.
pub const SPACING_MS: u64 = 5_000;
/// Time for which a sample is kept.
pub const KEPT_MS: u64 = 3_600_000;
/// If two samples are further apart than this, samples between them are missing.
const GAP_MS: u64 = 3 * SPACING_MS;
/// Maximum number of queues with a history. Each takes 40 KiB.
const QUEUES: usize = 1_000;
const SAMPLES: usize = (KEPT_MS / SPACING_MS) as usize + 1;

/// Histories by the queues' names.
#[derive(Debug, Default)]
pub struct Histories(BTreeMap<String, History>);

/// Samples of one queue, the oldest first.
#[derive(Debug, Default)]
pub struct History(VecDeque<Sample>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// The queue's number. A new queue of the same name has another one, and counts from zero.
    id: u64,
    /// `None`, like the next two, over a transport where each process counts only what it did.
    sent: Option<u64>,
    delivered: Option<u64>,
    acked: Option<u64>,
    ready: u32,
    held: u32,
    delayed: u32,
    dead: u32,
}

impl Histories {
    /// Adds a sample of a queue, unless the last one is too recent.
    pub fn add(&mut self, queue: &str, at_ms: u64, id: u64, stats: &QueueStats) {
        if let Some(history) = self.0.get_mut(queue) {
            history.add(Sample::of(at_ms, id, stats));
        } else if self.0.len() < QUEUES {
            let history = self.0.entry(queue.to_owned()).or_default();
            history.add(Sample::of(at_ms, id, stats));
        }
    }

    /// Drops the samples that are too old.
    pub fn forget_old(&mut self, now_ms: u64) {
        self.0.retain(|_, history| {
            history.forget_old(now_ms);
            !history.0.is_empty()
        });
    }

    pub fn get(&self, queue: &str) -> Option<&History> {
        self.0.get(queue)
    }
}

impl Sample {
    fn of(at_ms: u64, id: u64, stats: &QueueStats) -> Self {
        // A queue has fewer places than that.
        let common = |count| (!stats.only_this_process).then_some(count);
        let places = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            at_ms,
            id,
            sent: common(stats.sent),
            delivered: common(stats.received),
            acked: common(stats.acked),
            ready: places(stats.ready),
            held: places(stats.leased),
            delayed: places(stats.delayed),
            dead: places(stats.dead),
        }
    }
}

impl History {
    fn add(&mut self, sample: Sample) {
        // Samples with a later time are from before the clock was set back.
        while self.0.back().is_some_and(|last| last.at_ms > sample.at_ms) {
            self.0.pop_back();
        }
        let last = self.0.back();
        if last.is_none_or(|last| sample.at_ms - last.at_ms >= SPACING_MS) {
            self.0.push_back(sample);
        }
        while self.0.len() > SAMPLES {
            self.0.pop_front();
        }
        self.forget_old(sample.at_ms);
    }

    fn forget_old(&mut self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(KEPT_MS);
        while self.0.front().is_some_and(|first| first.at_ms < oldest) {
            self.0.pop_front();
        }
    }

    /// Returns columns of equal length. A rate is the one since the previous sample. It is `null`
    /// if there is no previous sample, or if samples between the two are missing.
    pub fn json(&self, queue: &str, now_ms: u64) -> Value {
        let column = |value: fn(&Sample) -> u32| self.0.iter().map(value).collect::<Vec<_>>();
        let ago = |sample: &Sample| seconds(now_ms.saturating_sub(sample.at_ms));
        json!({
            "queue": queue,
            "spacing_seconds": seconds(SPACING_MS),
            "gap_seconds": seconds(GAP_MS),
            "kept_seconds": seconds(KEPT_MS),
            "ago_seconds": self.0.iter().map(ago).collect::<Vec<_>>(),
            "ready": column(|sample| sample.ready),
            "held": column(|sample| sample.held),
            "delayed": column(|sample| sample.delayed),
            "dead": column(|sample| sample.dead),
            "sent_per_second": self.rates(|sample| sample.sent),
            "delivered_per_second": self.rates(|sample| sample.delivered),
            "acked_per_second": self.rates(|sample| sample.acked),
        })
    }

    fn rates(&self, counter: fn(&Sample) -> Option<u64>) -> Vec<Option<f64>> {
        let mut last: Option<&Sample> = None;
        let rate = |sample| {
            let before = last.replace(sample)?;
            let ms = sample.at_ms - before.at_ms;
            let is_known = before.id == sample.id && ms <= GAP_MS;
            let more = counter(sample)?.checked_sub(counter(before)?)?;
            is_known.then(|| more as f64 * 1000.0 / ms as f64)
        };
        self.0.iter().map(rate).collect()
    }
}

pub fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(sent: u64, ready: u64) -> QueueStats {
        let mut stats = QueueStats::default();
        (stats.sent, stats.ready) = (sent, ready);
        stats
    }

    fn json(histories: &Histories, now_ms: u64) -> Value {
        histories.get("jobs").unwrap().json("jobs", now_ms)
    }

    #[test]
    fn a_history_grows_by_one_sample_in_five_seconds() {
        let mut histories = Histories::default();
        for second in 0..=12 {
            histories.add("jobs", second * 1000, 7, &stats(second * 10, second));
        }
        let json = json(&histories, 12_000);
        assert_eq!(json["ago_seconds"], json!([12.0, 7.0, 2.0]));
        assert_eq!(json["ready"], json!([0, 5, 10]));
        assert_eq!(json["sent_per_second"], json!([null, 10.0, 10.0]));
    }

    #[test]
    fn a_history_is_at_most_an_hour_long() {
        let mut histories = Histories::default();
        for sample in 0..2_000 {
            histories.add("jobs", sample * SPACING_MS, 7, &stats(sample, 1));
        }
        let now_ms = 1_999 * SPACING_MS;
        let ago = json(&histories, now_ms)["ago_seconds"].clone();
        assert_eq!(ago.as_array().unwrap().len(), SAMPLES);
        assert_eq!(ago[0], seconds(KEPT_MS));
        // A removed queue is dropped when its last sample is too old.
        histories.forget_old(now_ms + KEPT_MS);
        assert!(histories.get("jobs").is_some());
        histories.forget_old(now_ms + KEPT_MS + 1);
        assert!(histories.get("jobs").is_none());
    }

    #[test]
    fn a_rate_is_unknown_across_a_gap_or_a_new_queue_of_the_same_name() {
        let mut histories = Histories::default();
        for (at_ms, id, sent) in [
            (0, 7, 100),
            (5_000, 7, 200),
            (60_000, 7, 300),
            (65_000, 8, 400),
            (70_000, 8, 410),
        ] {
            histories.add("jobs", at_ms, id, &stats(sent, 1));
        }
        let json = json(&histories, 70_000);
        assert_eq!(
            json["sent_per_second"],
            json!([null, 20.0, null, null, 2.0])
        );
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_samples_in_order() {
        let mut histories = Histories::default();
        for at_ms in [100_000, 105_000, 50_000, 55_000] {
            histories.add("jobs", at_ms, 7, &stats(0, 1));
        }
        assert_eq!(json(&histories, 55_000)["ago_seconds"], json!([5.0, 0.0]));
    }

    #[test]
    fn the_number_of_histories_is_bounded() {
        let mut histories = Histories::default();
        for queue in 0..QUEUES + 10 {
            histories.add(&format!("q{queue}"), 0, 7, &stats(0, 1));
        }
        assert_eq!(histories.0.len(), QUEUES);
    }
}
