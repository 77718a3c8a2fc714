//! Reports between processes: a message may be ready, a place may be free.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::runtime::spawn;
use crate::shared::{Life, Shared, Side};

impl Shared {
    /// Informs waiters on this side, in this process and in others, that there may be something.
    pub(crate) async fn notify(&self, side: Side) {
        self.notify_with(side, Bytes::new()).await;
    }

    /// Reports that the place of this key is free.
    pub(crate) async fn notify_free_place(&self, stream: usize, key: &str) {
        self.notify_with(Side::Room, format!("{stream} {key}").into())
            .await;
    }

    /// Reports that the places of these keys are free.
    pub(crate) async fn notify_free_places(&self, stream: usize, keys: &[&str]) {
        /// Some kilobytes.
        const AT_ONCE: usize = 256;
        for keys in keys.chunks(AT_ONCE) {
            let keys = keys.join(" ");
            self.notify_with(Side::Room, format!("{stream} {keys}").into())
                .await;
        }
    }

    async fn notify_with(&self, side: Side, what: Bytes) {
        match side {
            Side::Items => self.items.notify(),
            Side::Room => self.room.notify(),
        }
        if self.life() == Life::Closed {
            self.control.notify();
        }
        if !self.has_subscribers[side as usize].load(Ordering::SeqCst) {
            return;
        }
        // Without a subscriber, the server drops it.
        let subject = self.subject(side);
        let _ = self.connection.client.publish(subject, what).await;
    }

    /// Notes the places that another process reports as free, if it names any.
    fn apply_free_places(&self, said: &[u8]) {
        let said = std::str::from_utf8(said).unwrap_or_default();
        if let Some((stream, keys)) = said.split_once(' ')
            && let Some(stream) = stream
                .parse()
                .ok()
                .and_then(|stream: usize| self.streams.get(stream))
        {
            keys.split(' ').for_each(|key| stream.freed(key));
        }
    }

    fn subject(&self, side: Side) -> String {
        format!("ipc-told.{:016x}.{}", self.entry.id, side as usize)
    }

    /// From now on, receives what other processes report to waiters on this side.
    ///
    /// They send no reports before they know that some process receives them. Until they do,
    /// waiters find what is there by looking now and then.
    pub(crate) async fn subscribe(self: &Arc<Self>, side: Side) {
        self.record_subscription(side);
        if self.subscribed[side as usize].swap(true, Ordering::SeqCst) {
            return;
        }
        let Ok(mut told) = self.connection.client.subscribe(self.subject(side)).await else {
            self.subscribed[side as usize].store(false, Ordering::SeqCst);
            return;
        };
        let shared = Arc::downgrade(self);
        spawn(async move {
            while let Some(said) = told.next().await {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                match side {
                    Side::Items => shared.items.notify(),
                    Side::Room => {
                        shared.apply_free_places(&said.payload);
                        shared.room.notify();
                    }
                }
            }
        });
    }

    /// Notes in the directory's entry that a process receives reports about this side. The entry
    /// keeps that for ever, so this happens once for each queue.
    fn record_subscription(self: &Arc<Self>, side: Side) {
        let notes = |shared: &Self| {
            shared.recording_subscription[side as usize].swap(true, Ordering::SeqCst)
        };
        if self.has_subscribers[side as usize].load(Ordering::SeqCst) || notes(self) {
            return;
        }
        let shared = Arc::clone(self);
        spawn(async move {
            let (name, id) = (&shared.name, shared.entry.id);
            let noted = shared.directory.set_subscribed(name, id, side as usize);
            if let Some(entry) = noted.await {
                shared.learn(Some(&entry));
            }
            shared.recording_subscription[side as usize].store(false, Ordering::SeqCst);
        });
    }

    /// Reports an item when its time comes.
    pub(crate) fn notify_later(self: &Arc<Self>, after: Duration) {
        let shared = Arc::downgrade(self);
        spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(shared) = shared.upgrade() {
                shared.notify(Side::Items).await;
            }
        });
    }
}
