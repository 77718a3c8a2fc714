//! Measures what a value of five fields costs in each encoding.
//!
//! Run it with `cargo run --release -p ipc-proto --all-features --example encoding_cost`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ipc_proto::Encoding;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Job {
    id: u64,
    file: String,
    width: u32,
    quality: f32,
    watermark: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let job = Job {
        id: 123_456_789,
        file: "holiday/2024/0001.png".to_owned(),
        width: 640,
        quality: 0.85,
        watermark: None,
    };
    let mut bytes = Vec::with_capacity(256);
    for encoding in [Encoding::Postcard, Encoding::MessagePack, Encoding::Json] {
        let encode = best(|| {
            bytes.clear();
            encoding
                .append(black_box(&job), &mut bytes)
                .expect("a job has a form");
        });
        let decode = best(|| {
            let job: Job = encoding.decode(black_box(&bytes)).expect("it was encoded");
            black_box(job);
        });
        println!(
            "{encoding}: {} bytes, {} ns to encode, {} ns to decode",
            bytes.len(),
            encode.as_nanos(),
            decode.as_nanos()
        );
    }
    Ok(())
}

/// Returns the duration of one call, in the fastest of many rounds.
fn best(mut call: impl FnMut()) -> Duration {
    const ROUNDS: usize = 200;
    const CALLS: u32 = 5_000;
    let round = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed() / CALLS
    };
    std::iter::repeat_with(round)
        .take(ROUNDS)
        .min()
        .unwrap_or_default()
}
