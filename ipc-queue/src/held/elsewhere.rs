//! The content of a delivery where there is no shared memory.

use std::marker::PhantomData;

use crate::port::PortDelivery;

/// A delivery of a transport.
#[derive(Debug)]
pub(crate) struct Held<'a>(Box<PortDelivery>, PhantomData<&'a ()>);

/// The content of a delivery.
pub(crate) enum Holder<P> {
    Port(P),
}

impl Held<'_> {
    pub(crate) fn of_port(delivery: Box<PortDelivery>) -> Self {
        Self(delivery, PhantomData)
    }

    pub(crate) fn holder(&self) -> Holder<&PortDelivery> {
        Holder::Port(&self.0)
    }

    pub(crate) fn into_holder(self) -> Holder<Box<PortDelivery>> {
        Holder::Port(self.0)
    }
}
