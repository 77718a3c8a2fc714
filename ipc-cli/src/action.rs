//! What `top` and `web` can do to a queue.

use anyhow::Result;

use crate::address;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pause,
    Resume,
    Requeue,
    Drain,
}

impl Action {
    /// Does it, and returns what was done in words. `queue` is the address as it was typed.
    pub fn act(self, queue: &str) -> Result<String> {
        let opened = address::open(queue)?;
        let transport = opened.transport();
        Ok(match self {
            Self::Pause => {
                transport.pause()?;
                format!("{queue} is paused")
            }
            Self::Resume => {
                transport.resume()?;
                format!("{queue} delivers")
            }
            Self::Requeue => {
                let mut requeued = 0;
                for letter in transport.dead_letters()? {
                    requeued += u64::from(transport.requeue(letter.id)?);
                }
                format!("{requeued} requeued")
            }
            Self::Drain => {
                transport.close()?;
                format!("{queue} is closed; ipc reopen {queue} opens it again")
            }
        })
    }
}
