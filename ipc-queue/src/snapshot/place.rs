//! The place of a queue, and what an operation does with the queue as a whole.

use ipc_proto::{Name, QueueSettings};
use ipc_shm::Namespace;

use super::error::SnapshotError;
use crate::address::{self, Address};
use crate::capability::{Feature, Unsupported};
use crate::error::QueueError;
use crate::open_request::{AttachAs, OpenMode, OpenRequest};
use crate::options::QueueOptions;
use crate::shm::{Frozen, NotFrozen, ShmQueue};
use crate::wait::Wait;

/// The origin of a queue: it was found, or it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Found,
    Created,
}

/// A queue in shared memory, by its name and the folder of its namespace.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Namespace,
    name: Name,
    pub(super) address: String,
}

impl Place {
    /// The queue `name` in a namespace.
    #[must_use]
    pub fn new(namespace: &Namespace, name: &Name) -> Self {
        Self {
            address: format!("shm:{}/{name}", namespace.name()),
            namespace: namespace.clone(),
            name: name.clone(),
        }
    }

    /// The place of an opened queue.
    #[must_use]
    pub fn of(queue: &ShmQueue) -> Self {
        let (namespace, name) = queue.place();
        Self::new(&namespace, &name)
    }

    pub(super) fn parse(address: &str) -> Result<Self, SnapshotError> {
        let Address::Shm { namespace, name } = address.parse()? else {
            return Err(SnapshotError::Unsupported {
                address: address::without_secrets(address).to_string(),
                source: Unsupported::by_transport(Feature::Snapshot),
            });
        };
        let namespace = Namespace::new(namespace.as_str()).map_err(QueueError::from)?;
        Ok(Self::new(&namespace, &name))
    }

    pub(super) fn open_existing(&self) -> Result<ShmQueue, QueueError> {
        let request = OpenRequest {
            mode: OpenMode::Open,
            payload: OpenRequest::ANY_PAYLOAD.to_owned(),
            attach_as: AttachAs::Tool,
            ..OpenRequest::default()
        };
        ShmQueue::open(&self.namespace, &self.name, &request)
    }

    pub(super) fn open_or_create(
        &self,
        options: &QueueOptions,
        settings: &QueueSettings,
        payload: &str,
        keys: u64,
    ) -> Result<(ShmQueue, Origin), QueueError> {
        let mut request = options.over(settings.clone(), payload);
        if !options.gives("dedup_keys") && request.settings.dedup_window.is_some() {
            let keys = u32::try_from(keys).unwrap_or(u32::MAX);
            let keys = keys.min(QueueSettings::MAX_DEDUP_KEYS).next_power_of_two();
            request.settings.dedup_keys = request.settings.dedup_keys.max(keys);
        }
        loop {
            for (mode, origin) in [
                (OpenMode::Open, Origin::Found),
                (OpenMode::Create, Origin::Created),
            ] {
                request.mode = mode;
                match ShmQueue::open(&self.namespace, &self.name, &request) {
                    Err(QueueError::NotFound { .. }) if origin == Origin::Found => {}
                    // Another process has just created it.
                    Err(QueueError::Exists { .. }) if origin == Origin::Created => {}
                    opened => return Ok((opened?, origin)),
                }
            }
        }
    }

    pub(super) fn freeze(&self, queue: ShmQueue, wait: Wait) -> Result<Frozen, SnapshotError> {
        Frozen::freeze(queue, wait).map_err(|error| match error {
            NotFrozen::InUse(processes) => SnapshotError::InUse {
                queue: self.address.clone(),
                processes,
            },
            NotFrozen::Gone(error) => error.into(),
        })
    }

    /// Thaws the queue, unless it must stay frozen.
    pub(super) fn thaw_unless(&self, frozen: Frozen, stays: bool) {
        if !stays {
            frozen.thaw();
        }
    }

    /// Leaves a queue as it was found, if nothing was added to it.
    pub(super) fn undo(&self, frozen: Frozen, stays: bool, origin: Origin) {
        match origin {
            Origin::Created if !stays => {
                // Otherwise an empty queue would be left, with settings that the next try may not
                // want.
                let _ = self.remove(frozen);
            }
            _ => self.thaw_unless(frozen, stays),
        }
    }

    /// Removes a queue whose contents are now elsewhere.
    fn remove(&self, frozen: Frozen) -> Result<(), SnapshotError> {
        ShmQueue::remove(&self.namespace, &self.name)?;
        drop(frozen);
        Ok(())
    }

    /// As [`remove`](Self::remove), of a queue that stays frozen if it can't be removed.
    pub(super) fn remove_copied(&self, frozen: Frozen, to: &str) -> Result<(), SnapshotError> {
        let removed = self.remove(frozen);
        removed.map_err(|error| self.not_ended(to, error))
    }

    pub(super) fn not_ended(&self, to: &str, source: SnapshotError) -> SnapshotError {
        SnapshotError::NotEnded {
            queue: self.address.clone(),
            to: to.to_owned(),
            source: Box::new(source),
        }
    }

    pub(super) fn unfinished(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Unfinished {
            queue: self.address.clone(),
            what,
        }
    }
}
