//! Opening and creating the segment of a queue.

use ipc_proto::Name;
use ipc_shm::{Created, Expected, Header, HeaderError, Namespace, OpenError, PayloadType, Segment};

use super::KIND;
use super::geometry::{self, LAYOUT_HASH};
use crate::error::QueueError;
use crate::open_request::{OpenMode, OpenRequest, payload_differs};

pub(super) fn open_segment(
    namespace: &Namespace,
    name: &Name,
    request: &OpenRequest,
) -> Result<Segment, QueueError> {
    let payload = match &request.payload[..] {
        "" | OpenRequest::ANY_PAYLOAD => PayloadType::bytes(),
        name => PayloadType::named(name),
    };
    let any = request.payload == OpenRequest::ANY_PAYLOAD;
    let expected = Expected {
        kind: KIND,
        layout_hash: LAYOUT_HASH,
        payload: (!any).then(|| payload.clone()),
    };
    let settings = &request.settings;
    let header = || {
        let (_, body_bytes) = geometry::levels(settings)?;
        let params = geometry::to_params(settings, fastrand::u64(1..));
        let participants = settings.max_participants;
        Header::new(KIND, LAYOUT_HASH, payload, participants, params, body_bytes)?
            .with_tool_slots(geometry::TOOL_SLOTS)
    };
    let too_large = || QueueError::Geometry {
        name: name.to_string(),
        reason: "its settings need more memory than the address space has".to_owned(),
    };
    let opened = match request.mode {
        OpenMode::Open => Segment::open(namespace, name, &expected),
        OpenMode::Create => {
            return match Segment::create(namespace, name, &header().ok_or_else(too_large)?) {
                Err(ipc_shm::CreateError::Exists { .. }) => Err(QueueError::Exists {
                    name: name.to_string(),
                }),
                created => Ok(created?),
            };
        }
        OpenMode::OpenOrCreate => {
            let header = header().ok_or_else(too_large)?;
            match Segment::open_or_create(namespace, name, &header) {
                Ok((segment, Created::Yes | Created::No)) => Ok(segment),
                Err(ipc_shm::OpenOrCreateError::Create(error)) => return Err(error.into()),
                Err(ipc_shm::OpenOrCreateError::Open(error)) => Err(error),
                Err(other) => return Err(QueueError::Transport(other.to_string())),
            }
        }
    };
    opened.map_err(|error| open_error(name, error))
}

pub(super) fn open_error(name: &Name, error: OpenError) -> QueueError {
    match error {
        OpenError::NotFound { path } => QueueError::NotFound {
            name: path.display().to_string(),
        },
        OpenError::Header {
            source: HeaderError::Payload { found, wanted },
            ..
        } => payload_differs(name.as_str(), found.name(), wanted.name()),
        other => other.into(),
    }
}

/// Returns the name of this process in the table of participants.
pub(super) fn process_name() -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
