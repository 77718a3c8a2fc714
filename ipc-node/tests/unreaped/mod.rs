//! Processes that ended and were not waited for.

use std::fs;

/// Returns the number of processes that ended and were not reaped.
pub fn zombies() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_zombie = |stat: &String| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    stats.filter(is_zombie).count()
}
