//! Four workers, one of which is killed by its job: `cargo run -p ipc-node --example pool`.

use ipc_node::pool::{Handlers, Pool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut handlers = Handlers::new();
    handlers.add("divide", |(a, b): (i64, i64), _| {
        if b == 13 {
            std::process::abort(); // a bug in some native library
        }
        a.checked_div(b).ok_or("division by zero")
    });
    handlers.work_if_worker();

    let pool = Pool::builder().workers(4).start()?;
    let jobs: Vec<_> = (10..15).chain([0]).map(|b| (1000, b)).collect();
    let results = pool.map::<_, i64>("divide", &jobs);
    for ((a, b), result) in jobs.iter().zip(results) {
        match result {
            Ok(quotient) => println!("{a} / {b} = {quotient}"),
            Err(error) => println!("{a} / {b}: {error}"),
        }
    }
    println!("{} workers were replaced", pool.status()?.restarts);
    Ok(pool.shutdown()?)
}
