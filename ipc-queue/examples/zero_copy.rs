//! Images of 8 MiB that are read where they were written: the queue copies nothing.
//!
//! `cargo run -p ipc-queue --example zero_copy -- view`, in as many terminals as you like, and
//! `head -c 80M /dev/urandom | cargo run -p ipc-queue --example zero_copy -- camera`.

use std::io::{ErrorKind, Read};

use ipc_queue::{ByteQueue, QueueOptions};

const IMAGE: u32 = 8 << 20;

fn main() -> anyhow::Result<()> {
    let images = QueueOptions::new()
        .capacity(8)
        .max_message_bytes(IMAGE)
        .pool_bytes(8 * u64::from(IMAGE)) // room for eight images
        .open_bytes("shm:example-zero-copy")?;
    match std::env::args().nth(1).as_deref() {
        Some("camera") => camera(&images),
        Some("view") => view(&images),
        _ => anyhow::bail!("usage: zero_copy view | camera"),
    }
}

fn camera(images: &ByteQueue) -> anyhow::Result<()> {
    let sender = images.sender();
    loop {
        let mut image = sender.loan(IMAGE as usize)?; // memory of the queue, and a place in it
        match std::io::stdin().read_exact(&mut image) {
            Ok(()) => image.publish()?, // the kernel has written into it
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()), // not sent
            Err(error) => return Err(error.into()),
        };
    }
}

fn view(images: &ByteQueue) -> anyhow::Result<()> {
    let receiver = images.receiver();
    loop {
        let image = receiver.recv()?;
        let pixels = image.payload(); // the same memory
        let sum: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
        println!(
            "mean {}, attempt {}",
            sum / pixels.len() as u64,
            image.attempt()
        );
        image.ack()?; // now the memory is free for another image
    }
}
