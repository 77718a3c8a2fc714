//! Ten thousand jobs on four workers, with their progress. One job kills each worker that has it.
//!
//! `cargo run -p ipc-node --example pool`

use ipc_node::pool::{Context, Handlers, Pool};

const JOBS: u64 = 10_000;

fn digits(number: u64, _: &Context<'_>) -> Result<u64, String> {
    match number {
        4_242 => Err("4242 is refused".to_owned()),
        7_777 => std::process::abort(), // a bug in some native library
        _ => Ok(number
            .to_string()
            .bytes()
            .map(|digit| u64::from(digit - b'0'))
            .sum()),
    }
}

fn main() -> anyhow::Result<()> {
    let mut handlers = Handlers::new();
    handlers.add("digits", digits);
    handlers.work_if_worker(); // first: the workers are this program again

    let pool = Pool::builder().workers(4).start()?;
    let (mut done, mut sum) = (0, 0);
    for (number, answer) in pool.map_unordered::<_, u64>("digits", 0..JOBS) {
        match answer {
            Ok(digits) => sum += digits,
            Err(error) => println!("{number}: {error}"), // no other job is affected
        }
        done += 1;
        if done % 1_000 == 0 {
            println!("{done} of {JOBS} jobs are done");
        }
    }
    println!("the sum of all digits is {sum}");
    println!("{} workers were replaced", pool.status()?.restarts);
    Ok(pool.shutdown()?)
}
