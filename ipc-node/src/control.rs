//! Control messages, to all nodes or to one named node. They never wait behind data.
//!
//! Each node that receives control messages has an inbox: a small queue of its own. So there is
//! room even when other queues are full or paused. The inbox belongs to one membership and is named
//! after its slot and epoch. So a process that takes over a dead node's name gets none of its
//! messages, and any process can remove the inbox of a membership that is over. The next node that
//! joins, or the next message to all nodes, removes what a killed node left.
//!
//! Sending never blocks: an inbox that is not read fills up, and sending to it is then an error.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipc_proto::{Kind, Name, QueueSettings, codec};
use ipc_queue::transport::{OpenMode, OpenRequest, Wait};
use ipc_queue::{
    ByteDelivery, ByteQueue, ByteReceiver, CodecError, QueueError, RecvError, RecvFailure,
    RecvTimeoutError, SendError, SendFailure, SendOptions, SendTimeoutError, ShmQueue,
    TryRecvError, Unavailable,
};
use ipc_shm::{Attachment, Member, Namespace};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::inbox_name::{name_of, remove_inboxes};
use crate::registry::Registry;

/// The receiving end of a node's control messages. The inbox is removed when this is dropped.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: ByteReceiver,
    namespace: Namespace,
    name: Name,
    listening: Arc<AtomicBool>,
    /// Keeps the membership for as long as its inbox exists.
    _attachment: Arc<Attachment>,
    content: PhantomData<fn() -> T>,
}

/// The report about a message to all nodes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// The nodes in whose inboxes the message is.
    pub reached: Vec<String>,
    /// The nodes that exist but did not get the message, each with the reason.
    pub missed: Vec<(String, ControlError)>,
}

/// The reason why a control message was not delivered, or why a node cannot receive any.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No node has that name.
    #[error("no node {node:?} is there: `ipc nodes` lists those that are")]
    NoSuchNode {
        /// The name.
        node: String,
    },
    /// The node exists but has no inbox.
    #[error("node {node:?} does not listen: it has no inbox")]
    NotListening {
        /// Its name.
        node: String,
    },
    /// The node has not read its earlier messages.
    #[error(
        "node {node:?} has {unread} unread control messages and no room for more: it hangs, or does not read"
    )]
    Full {
        /// Its name.
        node: String,
        /// The number of unread messages.
        unread: u32,
    },
    /// This node already has an inbox.
    #[error("this node has an inbox already: keep using that")]
    Listening,
    /// The message cannot be sent.
    #[error("the control message can't be sent: {0}")]
    Send(#[from] SendError),
    /// The message has no encoding.
    #[error(transparent)]
    Encode(#[from] CodecError),
    /// The inbox cannot be created or used.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// The capacity of an inbox, in messages.
const UNREAD: u32 = 64;

impl<T: DeserializeOwned> Inbox<T> {
    /// Returns the next control message. Waits without a limit.
    ///
    /// # Errors
    /// [`RecvFailure::Decode`] for a message that is not a `T`, which is dropped;
    /// [`Unavailable::Removed`] if the inbox was removed.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.decoded(self.receiver.recv()?)
    }

    /// Returns the next control message, if there is one.
    ///
    /// # Errors
    /// Also [`TryRecvError::Empty`].
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        Ok(self.decoded(self.receiver.try_recv()?)?)
    }

    /// Returns the next control message, if it arrives in time.
    ///
    /// # Errors
    /// Also [`RecvTimeoutError::TimedOut`].
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        Ok(self.decoded(self.receiver.recv_timeout(time)?)?)
    }

    fn decoded(&self, delivery: ByteDelivery<'_>) -> Result<T, RecvError> {
        let report = codec::decode(delivery.payload());
        let (id, attempt) = (delivery.id(), delivery.attempt());
        // Acked before it is handled: if the node dies over it, no other node needs it.
        let _ = delivery.ack();
        report.map_err(|source| {
            let failure = RecvFailure::Decode {
                id,
                attempt,
                source,
            };
            failure.of(self.name.to_string())
        })
    }
}

impl<T> Inbox<T> {
    pub(crate) fn open(
        namespace: &Namespace,
        attachment: &Arc<Attachment>,
        listening: &Arc<AtomicBool>,
    ) -> Result<Self, ControlError> {
        if listening.swap(true, Ordering::SeqCst) {
            return Err(ControlError::Listening);
        }
        let name = name_of(attachment.member());
        let queue = open(namespace, &name, OpenMode::Create)
            .inspect_err(|_| listening.store(false, Ordering::SeqCst))?;
        Ok(Self {
            receiver: queue.receiver(),
            namespace: namespace.clone(),
            name,
            listening: Arc::clone(listening),
            _attachment: Arc::clone(attachment),
            content: PhantomData,
        })
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let _ = ShmQueue::remove(&self.namespace, &self.name);
        self.listening.store(false, Ordering::SeqCst);
    }
}

impl Registry {
    /// Sends a control message to the node `node`. Never blocks, and never waits behind data.
    ///
    /// # Errors
    /// [`ControlError`] says why the message is not in the node's inbox.
    pub fn send_to<T: Serialize>(&self, node: &str, what: &T) -> Result<(), ControlError> {
        let payload = codec::encode(what)?;
        let mut present = self.present().into_iter();
        let found = present.find(|(name, _)| name == node);
        let (_, member) = found.ok_or_else(|| ControlError::NoSuchNode {
            node: node.to_owned(),
        })?;
        self.put(node, member, &payload)
    }

    /// Sends a control message to every node. Never blocks, and never waits behind data.
    ///
    /// # Errors
    /// [`ControlError::Encode`] if the message has no encoding. The returned report has the result
    /// for each node.
    pub fn broadcast<T: Serialize>(&self, what: &T) -> Result<BroadcastReport, ControlError> {
        self.broadcast_except(None, what)
    }

    pub(crate) fn broadcast_except<T: Serialize>(
        &self,
        ours: Option<Member>,
        what: &T,
    ) -> Result<BroadcastReport, ControlError> {
        let payload = codec::encode(what)?;
        self.remove_orphans();
        let mut report = BroadcastReport::default();
        for (node, member) in self.present() {
            if Some(member) == ours {
                continue;
            }
            match self.put(&node, member, &payload) {
                Ok(()) => report.reached.push(node),
                Err(error) => report.missed.push((node, error)),
            }
        }
        Ok(report)
    }

    fn put(&self, node: &str, member: Member, payload: &[u8]) -> Result<(), ControlError> {
        let node = || node.to_owned();
        let inbox = match open(self.namespace(), &name_of(member), OpenMode::Open) {
            Ok(inbox) => inbox,
            Err(QueueError::NotFound { .. }) => {
                return Err(ControlError::NotListening { node: node() });
            }
            Err(error) => return Err(error.into()),
        };
        let options = SendOptions::new().kind(Kind::Control).wait(Wait::No);
        match inbox.sender().send_with(payload, &options) {
            Ok(_) => Ok(()),
            Err(SendTimeoutError::Failed(error)) => match error.failure {
                SendFailure::Unavailable(Unavailable::Removed) => {
                    Err(ControlError::NotListening { node: node() })
                }
                _ => Err(error.into()),
            },
            Err(_) => Err(ControlError::Full {
                node: node(),
                unread: UNREAD,
            }),
        }
    }

    /// Removes the inboxes of memberships that are over.
    pub(crate) fn remove_orphans(&self) {
        self.remove_inboxes(|member| self.is_over(member));
    }

    /// Removes the inboxes of the members for which `which` returns `true`.
    pub(crate) fn remove_inboxes(&self, which: impl Fn(Member) -> bool) {
        remove_inboxes(self.namespace(), which);
    }
}

fn open(namespace: &Namespace, name: &Name, mode: OpenMode) -> Result<ByteQueue, QueueError> {
    let request = OpenRequest {
        mode,
        settings: QueueSettings {
            capacity: UNREAD,
            inline_bytes: 256,
            max_message_bytes: 16 << 10,
            pool_bytes: 64 << 10,
            max_participants: 64,
            ..QueueSettings::default()
        },
        ..OpenRequest::default()
    };
    let queue = ShmQueue::open(namespace, name, &request)?;
    Ok(ByteQueue::over(Arc::new(queue)))
}
