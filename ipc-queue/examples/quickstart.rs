//! Start it once without arguments to send, and with `work` in as many terminals as you like to work.
use ipc_queue::Queue;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jobs = Queue::<String>::open("shm:jobs")?; // any process, the same queue
    if std::env::args().nth(1).as_deref() == Some("work") {
        let receiver = jobs.receiver();
        loop {
            let job = receiver.recv()?; // sleeps while there is nothing to do
            println!("{:?}, attempt {}", job.data(), job.attempt());
            job.ack()?; // killed before this? then another worker gets the job
        }
    }
    for n in 1..=10 {
        jobs.sender().send(format!("job {n}"))?; // accepted: survives even our own kill -9
    }
    Ok(())
}
