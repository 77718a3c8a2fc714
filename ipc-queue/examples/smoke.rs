use ipc_queue::{Queue, QueueOptions};
use std::time::Instant;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for address in ["local:smoke", "shm:smoke/smoke"] {
        let queue: Queue<String> = QueueOptions::new().capacity(1024).open(address)?;
        let q2 = queue.clone();
        let n = 1_000_000u32;
        let t = Instant::now();
        std::thread::scope(|s| {
            s.spawn(move || {
                let tx = q2.sender();
                for i in 0..n {
                    tx.send(&format!("message number {i:>40}")).unwrap();
                }
            });
            let rx = queue.receiver();
            for _ in 0..n {
                let d = rx.recv().unwrap();
                d.ack().unwrap();
            }
        });
        println!(
            "{address}: {:.2} M/s {:?}",
            n as f64 / t.elapsed().as_secs_f64() / 1e6,
            queue.transport().stats()
        );
        drop(queue);
        ipc_queue::remove(address)?;
    }
    Ok(())
}
