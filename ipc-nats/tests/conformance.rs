//! The `nats` transport keeps every promise of `ipc_queue::transport`.

use std::sync::{Arc, LazyLock};

use ipc_nats::testing::{TestServer, is_installed};
use ipc_nats::{NatsAddress, NatsQueue};
use ipc_queue::conformance::Subject;
use ipc_queue::transport::{OpenRequest, Transport};
use ipc_queue::{ControlError, Name, QueueError};

struct Nats;

static SERVER: LazyLock<TestServer> = LazyLock::new(TestServer::start);

impl Nats {
    fn address(name: &Name) -> NatsAddress {
        let rest = format!("//{}/{name}?storage=memory", SERVER.host());
        NatsAddress::parse(&rest).expect("an address")
    }
}

impl Subject for Nats {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(NatsQueue::open(&Self::address(name), request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        NatsQueue::remove(&Self::address(name))
    }

    fn slowness(&self) -> u32 {
        20
    }
}

// A test without a server is skipped, and says so.
ipc_queue::conformance_tests!(match is_installed() {
    true => Nats,
    false => return,
});
