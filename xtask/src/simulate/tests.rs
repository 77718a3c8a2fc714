//! The model keeps its promises, and each way of breaking it is noticed.

use super::mutation::Break;
use super::plan::Plan;
use super::report::Report;
use super::simulate;

/// Enough for each break to be noticed with one of them.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

fn small(seed: u64, broken: Option<Break>) -> Report {
    let plan = Plan::new(30, 60, seed);
    simulate(Plan { broken, ..plan })
}

#[test]
fn what_was_accepted_is_settled_or_lost_as_its_guarantee_says() {
    for seed in SEEDS {
        let report = small(seed, None);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn so_it_is_with_a_thousand_hosts() {
    let report = simulate(Plan::new(1000, 10, 1));
    assert!(report.is_clean(), "{report}");
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let [once, again, other] =
        [1, 1, 2].map(|seed| serde_json::to_string(&small(seed, None)).unwrap());
    assert_eq!(once, again);
    assert_ne!(once, other);
}

#[test]
fn each_way_of_breaking_the_model_is_noticed() {
    for broken in Break::all() {
        let is_noticed = |seed| !small(seed, Some(*broken)).is_clean();
        assert!(
            SEEDS.into_iter().any(is_noticed),
            "{broken:?} passes for right"
        );
    }
}
