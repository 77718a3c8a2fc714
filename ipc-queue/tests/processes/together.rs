//! A process that holds messages which it took together, in one batch.

use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, MessageId};

use crate::stage::{PATIENCE, SMALL, Stage, listen, say, settings};

/// Takes a batch, and acks its first message when told to.
pub fn hold(queue: &ByteQueue) {
    let receiver = queue.receiver();
    let mut batch = receiver.recv_batch(4, Wait::Forever).unwrap();
    assert_eq!(batch.len(), 4);
    say("holds");
    listen();
    batch.remove(0).ack().unwrap();
    say("settled");
    listen();
    // One of them was revoked.
    let _ = batch.ack();
}

/// A queue whose four messages another process holds, and the id of the second one.
fn held() -> (Stage, ByteQueue, crate::stage::Puppet, MessageId) {
    let stage = Stage::new(&settings(8));
    let queue = stage.open();
    let payload = [7; SMALL];
    queue.sender().send_batch(&[&payload[..]; 4]).unwrap();
    let mut holder = stage.start("batch");
    holder.expect("holds");
    let mut leases = queue.transport().leases().unwrap();
    leases.sort_by_key(|lease| lease.message);
    let id = leases[1].message;
    (stage, queue, holder, id)
}

#[test]
fn a_message_held_with_others_is_revoked_once_one_of_them_is_settled_or_freed_by_an_end() {
    for is_settled in [true, false] {
        let (_stage, queue, mut holder, id) = held();
        let refused = queue.transport().revoke(id).unwrap_err().to_string();
        let advice = "wait until it settles one of them, or end that process";
        assert!(refused.contains(advice), "{refused}");
        if is_settled {
            holder.tell("settle one");
            holder.expect("settled");
            assert!(queue.transport().revoke(id).unwrap());
        } else {
            holder.kill();
        }
        let receiver = queue.receiver();
        let again = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(again.attempt(), 2);
        assert!(!is_settled || again.id() == id);
        again.ack().unwrap();
    }
}
