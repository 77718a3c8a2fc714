//! iceoryx2's publish and subscribe, with a publisher that waits for room, and with its events.
//!
//! The types here have no parameters, because iceoryx2 takes minutes to compile wherever its types
//! are named.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::event::PortFactory as Events;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory as Messages;

type Ipc = ipc::Service;

/// The service and its settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of its files.
    pub folder: PathBuf,
    /// The prefix of its other names.
    pub prefix: String,
    /// The name of the service.
    pub name: String,
    /// The size of each payload.
    pub bytes: usize,
    /// The number of messages that it holds.
    pub capacity: usize,
    /// Set if an event notifies the receiver of each message.
    pub events: bool,
}

/// The sending end.
#[derive(Debug)]
pub struct Sending {
    publisher: Publisher<Ipc, [u8], ()>,
    notifier: Option<Notifier<Ipc>>,
    _node: Node<Ipc>,
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiving {
    subscriber: Subscriber<Ipc, [u8], ()>,
    listener: Option<Listener<Ipc>>,
    _node: Node<Ipc>,
}

impl Settings {
    fn node(&self) -> Result<Node<Ipc>> {
        set_log_level(LogLevel::Fatal);
        let mut config = Config::default();
        let folder = Path::new(self.folder.as_os_str().as_encoded_bytes());
        config.global.set_root_path(&folder.map_err(debug)?);
        config.global.prefix = FileName::new(self.prefix.as_bytes()).map_err(debug)?;
        Ok(NodeBuilder::new().config(&config).create::<Ipc>()?)
    }

    fn messages(&self, node: &Node<Ipc>) -> Result<Messages<Ipc, [u8], ()>> {
        let service = node
            .service_builder(&self.service()?)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(self.capacity)
            .max_publishers(1)
            .max_subscribers(1);
        service.open_or_create().context("a service")
    }

    fn events(&self, node: &Node<Ipc>) -> Result<Events<Ipc>> {
        let service = node.service_builder(&self.service()?).event();
        service.open_or_create().context("an event service")
    }

    fn service(&self) -> Result<ServiceName> {
        ServiceName::new(&self.name).map_err(debug)
    }
}

fn debug(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("{error:?}")
}

impl Sending {
    /// Creates a publisher.
    ///
    /// # Errors
    /// Any error of iceoryx2.
    pub fn open(settings: &Settings) -> Result<Self> {
        let node = settings.node()?;
        let notifier = if settings.events {
            Some(settings.events(&node)?.notifier_builder().create()?)
        } else {
            None
        };
        let publisher = settings
            .messages(&node)?
            .publisher_builder()
            .initial_max_slice_len(settings.bytes)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        Ok(Self {
            publisher,
            notifier,
            _node: node,
        })
    }

    /// Sends a payload of `len` bytes that is written where it will be read, waiting for room.
    ///
    /// # Errors
    /// Any error of iceoryx2.
    pub fn send(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let sample = self.publisher.loan_slice_uninit(len)?;
        // SAFETY: bytes of shared memory, which are never uninitialised; all are written below.
        let mut sample = unsafe { sample.assume_init() };
        fill(sample.payload_mut());
        sample.send()?;
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(())
    }
}

impl Receiving {
    /// Creates a subscriber.
    ///
    /// # Errors
    /// Any error of iceoryx2.
    pub fn open(settings: &Settings) -> Result<Self> {
        let node = settings.node()?;
        let listener = if settings.events {
            Some(settings.events(&node)?.listener_builder().create()?)
        } else {
            None
        };
        Ok(Self {
            subscriber: settings.messages(&node)?.subscriber_builder().create()?,
            listener,
            _node: node,
        })
    }

    /// Reads a message, if there is one.
    ///
    /// # Errors
    /// Any error of iceoryx2.
    pub fn try_receive(&self, read: &mut dyn FnMut(&[u8])) -> Result<Option<()>> {
        let sample = self.subscriber.receive()?;
        Ok(sample.map(|sample| read(sample.payload())))
    }

    /// Waits for an event, if there are any; does not wait otherwise.
    ///
    /// # Errors
    /// Any error of iceoryx2.
    pub fn wait(&mut self) -> Result<()> {
        if let Some(listener) = &mut self.listener {
            listener.blocking_wait(|_| ())?;
        }
        Ok(())
    }
}
