//! Start it once without arguments to send, and with `work` in as many terminals as you like to work.
use ipc_queue::Queue;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let jobs = Queue::<String>::open("shm:jobs")?; // any process, the same queue
    if std::env::args().nth(1).as_deref() == Some("work") {
        let receiver = jobs.receiver();
        loop {
            let job = match receiver.recv() {
                Ok(job) => job, // slept while there was nothing to do
                Err(error) if error.is_of_one_message() => {
                    eprintln!("{error}"); // unreadable: given back for other workers; go on
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            println!("{}, attempt {}", job.data(), job.attempt());
            job.ack()?; // killed before this? then another worker gets the job
        }
    }
    for n in 1..=10 {
        jobs.sender().send(format!("job {n}"))?; // accepted: survives even our own kill -9
    }
    Ok(())
}
