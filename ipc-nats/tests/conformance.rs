//! The `nats` transport keeps every promise of `ipc_queue::transport`, on each server that was
//! found.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ipc_nats::testing::{Program, TestServer, Which};
use ipc_nats::{NatsAddress, NatsQueue};
use ipc_queue::conformance::{Proxied, Proxy, Subject};
use ipc_queue::transport::{OpenMode, OpenRequest, Transport};
use ipc_queue::{ControlError, Name, QueueError};

struct Nats(&'static TestServer);

fn server(which: Which) -> Option<TestServer> {
    let program = Program::get(which, "conformance")?;
    Some(TestServer::of(&program))
}

impl Nats {
    /// Returns `None` if the server is missing; the tests are then skipped.
    fn on(which: Which) -> Option<Self> {
        static FIRST: LazyLock<Option<TestServer>> = LazyLock::new(|| server(Which::First));
        static SECOND: LazyLock<Option<TestServer>> = LazyLock::new(|| server(Which::Second));
        let server = match which {
            Which::First => &FIRST,
            Which::Second => &SECOND,
        };
        server.as_ref().map(Self)
    }

    fn address(&self, name: &Name) -> NatsAddress {
        let rest = format!("//{}/{name}?storage=memory", self.0.host());
        NatsAddress::parse(&rest).expect("an address")
    }
}

impl Subject for Nats {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        Ok(Arc::new(NatsQueue::open(&self.address(name), request)?))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        NatsQueue::remove(&self.address(name))
    }

    fn proxied(&self, name: &Name) -> Option<Proxied> {
        let server = self.0.host().parse().expect("an address of a socket");
        let (proxy, host) = Proxy::tcp(server).expect("a free port");
        // The time-out is short, because the faults stall it repeatedly.
        let rest = format!("//{host}/{name}?timeout=200ms");
        let address = NatsAddress::parse(&rest).expect("an address");
        let request = OpenRequest {
            mode: OpenMode::Open,
            payload: OpenRequest::ANY_PAYLOAD.to_owned(),
            ..OpenRequest::default()
        };
        // On a busy machine its first answer may come too late for this time-out.
        let deadline = Instant::now() + Duration::from_secs(30);
        let queue = loop {
            match NatsQueue::open(&address, &request) {
                Ok(queue) => break queue,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        Some(Proxied {
            proxy,
            queue: Arc::new(queue),
            remove: Box::new(move || NatsQueue::remove(&address)),
        })
    }

    fn slowness(&self) -> u32 {
        20
    }
}

mod on_the_first_server {
    ipc_queue::conformance_tests!(match super::Nats::on(super::Which::First) {
        Some(server) => server,
        None => return,
    });
}

mod on_the_second_server {
    ipc_queue::conformance_tests!(match super::Nats::on(super::Which::Second) {
        Some(server) => server,
        None => return,
    });
}
