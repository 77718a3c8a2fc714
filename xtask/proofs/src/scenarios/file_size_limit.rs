//! A limit on file sizes is an error with figures, and existing queues continue.
//!
//! The limit must not end the process either, as it does when a process writes past it.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Outcome;
use super::order::Order;
use super::stage::{self, CHUNKED, Stage};

const LIMIT: u64 = 16 << 10;
const MESSAGES: u64 = 100;

pub fn play(stage: &Stage) -> Result<Outcome> {
    let queue = stage::create(&stage::settings())?;
    let size = std::fs::metadata(stage.file_of(stage::JOBS))?.len();
    ensure!(size > LIMIT, "the queue has {size} bytes only");
    let mut limited = stage.stranger()?;
    limited.perform(Order::LimitFileSize { bytes: LIMIT })?;
    let refusal = limited.refused(&Order::Create {
        queue: "other".to_owned(),
        settings: stage::settings(),
    })?;
    let told = format!("limit: {LIMIT}, needed: {size}");
    let typed = refusal.contains("FileSizeLimit") && refusal.contains(&told);
    ensure!(typed, "another error: {refusal}");

    limited.attach()?;
    limited.tell(&Order::send(0..MESSAGES, CHUNKED))?;
    for number in 0..MESSAGES {
        stage::take_this(&queue, number, 1)?;
    }
    limited.hear()?;
    limited.perform(Order::Detach)?;
    drop(queue);
    let queue = stage::JOBS.to_owned();
    limited.perform(Order::Remove { queue })?;
    Outcome::kept(json!({ "limit": LIMIT, "needed": size, "messages": MESSAGES }))
}
