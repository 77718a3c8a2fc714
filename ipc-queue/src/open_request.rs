//! The request of an opener, and its comparison with an existing queue.

use ipc_proto::{PayloadName, QueueSettings};

use crate::capability::{Capabilities, Feature, Unsupported};
use crate::error::QueueError;

/// The behaviour when the queue exists, and when it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenMode {
    /// Open it, or create it.
    #[default]
    OpenOrCreate,
    /// Open it; [`QueueError::NotFound`] if there is none.
    Open,
    /// Create it; [`QueueError::Exists`] if there is one.
    Create,
}

pub(crate) fn payload_differs(name: &str, found: &str, wanted: &str) -> QueueError {
    let short = |payload: &str| {
        let Ok(payload) = payload.parse::<PayloadName>();
        payload.short()
    };
    QueueError::PayloadDiffers {
        name: name.to_owned(),
        found: short(found),
        wanted: short(wanted),
    }
}

/// The request of a process that opens a queue.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    /// The mode: the queue may exist, must exist, or must not exist.
    pub mode: OpenMode,
    /// The settings for creating the queue.
    pub settings: QueueSettings,
    /// The names of the settings that must agree if the queue exists.
    pub insist_on: Vec<&'static str>,
    /// The name of the payloads: the text of a [`PayloadName`], empty for plain bytes, or
    /// [`ANY_PAYLOAD`](Self::ANY_PAYLOAD).
    pub payload: String,
    /// The role in which this process attaches.
    pub attach_as: AttachAs,
}

/// The role of a process that opens a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachAs {
    /// A regular participant, counted against `max_participants`.
    #[default]
    Participant,
    /// A short-lived tool. It is not counted while one of the slots for tools is free.
    Tool,
}

impl OpenRequest {
    /// A value of `payload`: an existing queue is opened as one of plain bytes, whatever the type
    /// of its payloads.
    pub const ANY_PAYLOAD: &str = "*";

    /// Checks that a transport with these capabilities can create a queue with these settings.
    ///
    /// # Errors
    /// [`Unsupported`] names the first feature that the settings need and the transport lacks.
    pub fn check_capabilities(&self, capabilities: Capabilities) -> Result<(), Unsupported> {
        let needed = [
            (self.settings.priorities, Feature::Priorities),
            (self.settings.dedup_window.is_some(), Feature::Deduplication),
        ];
        for (is_needed, feature) in needed {
            if is_needed && !capabilities.has(feature) {
                return Err(Unsupported::by_transport(feature));
            }
        }
        Ok(())
    }

    /// Compares the name of an existing queue's payloads with the requested name.
    ///
    /// # Errors
    /// [`QueueError::PayloadDiffers`] names both.
    pub fn check_payload(&self, name: &str, found: &str) -> Result<(), QueueError> {
        if found == self.payload || self.payload == Self::ANY_PAYLOAD {
            return Ok(());
        }
        Err(payload_differs(name, found, &self.payload))
    }

    /// Compares an existing queue's settings with those that must agree.
    ///
    /// # Errors
    /// [`QueueError::SettingsDiffer`] names the first setting that differs.
    pub fn check(&self, name: &str, found: &QueueSettings) -> Result<(), QueueError> {
        let wanted = &self.settings;
        for ((field, found), (_, wanted)) in found.fields().into_iter().zip(wanted.fields()) {
            if self.insist_on.contains(&field) && found != wanted {
                return Err(QueueError::SettingsDiffer {
                    name: name.to_owned(),
                    field,
                    found,
                    wanted,
                });
            }
        }
        Ok(())
    }
}
