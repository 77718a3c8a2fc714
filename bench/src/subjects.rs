//! The list of the subjects.

use crate::player::Player;
use crate::subject::{
    bare, cloudtoid, futex, iceoryx, ipc_channel, lamport, memory, mq, nats, python, redis, remote,
    ringfire, shaq, shm, stream, threads, typed, vyukov,
};

/// Everything that is measured, in the order of the tables.
pub fn all() -> Vec<Box<dyn Player>> {
    let mut all: Vec<Box<dyn Player>> = Vec::new();
    typed::list(&mut all);
    shm::list(&mut all);
    remote::list(&mut all);
    all.push(bare::bare());
    vyukov::list(&mut all);
    lamport::list(&mut all);
    all.push(Box::new(futex::Futex));
    all.push(Box::new(memory::Memory));
    iceoryx::list(&mut all);
    all.push(Box::new(cloudtoid::Cloudtoid));
    shaq::list(&mut all);
    ringfire::list(&mut all);
    all.push(Box::new(ipc_channel::IpcChannel));
    threads::list(&mut all);
    all.push(Box::new(stream::Pipe));
    all.push(Box::new(stream::Socket));
    all.push(Box::new(mq::MessageQueue));
    all.push(Box::new(python::Python));
    all.push(Box::new(redis::Redis));
    nats::list(&mut all);
    all
}
