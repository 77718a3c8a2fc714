//! Two queues and standard input in one `poll`: `echo | cargo run -p ipc-queue --example poll`.

use std::io;
use std::os::fd::AsFd;

use ipc_queue::{Queue, remove};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addresses = ["shm:example-poll-a", "shm:example-poll-b"];
    let [a, b] = [
        Queue::<u32>::open(addresses[0])?,
        Queue::<u32>::open(addresses[1])?,
    ];
    let receivers = [a.receiver(), b.receiver()];
    let mut ready = [receivers[0].readiness()?, receivers[1].readiness()?];
    b.sender().send(7)?;
    let mut received = 0;
    while received < 1 {
        for (receiver, readiness) in receivers.iter().zip(&mut ready) {
            readiness.arm()?; // then try until there is nothing more, then wait
            while let Ok(delivery) = receiver.try_recv() {
                println!("{:?}", delivery.data());
                delivery.ack()?;
                received += 1;
            }
        }
        let stdin = io::stdin();
        let fds = [ready[0].as_fd(), ready[1].as_fd(), stdin.as_fd()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let timeout = if received == 0 {
            PollTimeout::NONE
        } else {
            PollTimeout::ZERO
        };
        poll(&mut fds, timeout)?;
    }
    addresses
        .iter()
        .try_for_each(|address| remove(address).map(drop))?;
    Ok(())
}
