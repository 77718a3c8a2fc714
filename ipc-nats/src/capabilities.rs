//! The features of queues over NATS.

use ipc_queue::{Capabilities, Feature, Support};

pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .natively([
        Feature::Batches,
        Feature::Leases,
        Feature::Headers,
        Feature::Reasons,
    ])
    .with(Feature::Delay, Support::Emulated)
    .with(Feature::Expiry, Support::Emulated)
    .with(Feature::Deduplication, Support::Emulated)
    .with(Feature::DropOldest, Support::Emulated)
    .with(Feature::Pause, Support::Emulated)
    .with(Feature::Purge, Support::Emulated)
    .with(Feature::Drain, Support::Emulated)
    .with(Feature::Snooze, Support::Emulated);
