//! The heartbeat thread.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flume::{RecvTimeoutError, Sender};
use ipc_shm::Attachment;

/// Sends a heartbeat at an interval until dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// Dropped to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    pub(crate) fn start(attachment: Arc<Attachment>, interval: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = flume::bounded(0);
        let beat = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                attachment.beat();
            }
        };
        let thread = thread::Builder::new()
            .name("ipc-heartbeat".to_owned())
            .spawn(beat)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
