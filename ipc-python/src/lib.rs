//! The extension module of the Python package `ipc-queue`: handles, deliveries, waiting, the pool.
//!
//! Python gives things their meaning; this module waits and moves bytes. Start with `queue.rs`.

mod arguments;
mod buffer;
mod calls;
mod delivery;
mod errors;
mod msgpack;
mod names;
mod node;
mod options;
mod payload;
mod pool;
mod queue;
mod readiness;
mod settings;
mod view;
mod waiting;

#[pyo3::pymodule]
mod _ipc {
    /// This must run before a worker of a pool opens anything.
    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        #[cfg(feature = "nats")]
        ipc_nats::register();
        Ok(())
    }

    #[pymodule_export]
    use crate::buffer::{RawBuffer, remove_buffer};
    #[pymodule_export]
    use crate::calls::QueueCalls;
    #[pymodule_export]
    use crate::delivery::Delivery;
    #[pymodule_export]
    use crate::msgpack::{pack, unpack};
    #[pymodule_export]
    use crate::names::{namespaces, queues, remove, remove_unused};
    #[pymodule_export]
    use crate::node::{RawNode, nodes, remove_nodes};
    #[pymodule_export]
    use crate::pool::{RawPool, work};
    #[pymodule_export]
    use crate::queue::RawQueue;
    #[pymodule_export]
    use crate::readiness::RawReadiness;
    #[pymodule_export]
    use crate::waiting::{after_fork_in_child, before_fork};
}
