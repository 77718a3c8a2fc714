//! The content of a delivery, in two scalars: a pointer, and the lease of a message in shared
//! memory.
//!
//! The compiler keeps a struct of two scalars in registers, and moves it as scalars if it is in
//! memory. It moves an enum by wide copies instead. A wide copy of parts that were just written
//! separately waits until all of them are in the cache, and every `?` after a receive is such a
//! copy: it took a third of the time of a receive with its ack.
//!
//! Why the `unsafe` is sound: `lease` is `Some` exactly if `owner` is a `&'a LevelReceiver`.
//! Otherwise `owner` is a box of this value alone, which [`Held::into_holder`] and `drop` take back
//! once. Both constructors say so, and nothing changes the fields.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::port::PortDelivery;
use crate::shm::{Lease, LevelReceiver, Reading, ShmDelivery};

/// A delivery of shared memory or of another transport.
pub(crate) struct Held<'a> {
    lease: Option<Lease>,
    owner: NonNull<()>,
    _owners: PhantomData<(&'a LevelReceiver, Box<PortDelivery>)>,
}

/// One of the two.
pub(crate) enum Holder<S, P> {
    Shm(S),
    Port(P),
}

impl<'a> Held<'a> {
    #[inline(always)]
    pub(crate) fn of_shm(delivery: ShmDelivery<'a>) -> Self {
        let (receiver, lease) = delivery.into_parts();
        Self {
            lease: Some(lease),
            owner: NonNull::from(receiver).cast(),
            _owners: PhantomData,
        }
    }

    pub(crate) fn of_port(delivery: Box<PortDelivery>) -> Self {
        Self {
            lease: None,
            owner: NonNull::from(Box::leak(delivery)).cast(),
            _owners: PhantomData,
        }
    }

    /// Returns what it holds.
    #[inline(always)]
    pub(crate) fn holder(&self) -> Holder<Reading<'a, '_>, &PortDelivery> {
        match &self.lease {
            Some(lease) => {
                // SAFETY: with a lease, it is a `&'a LevelReceiver`.
                let receiver = unsafe { self.owner.cast().as_ref() };
                Holder::Shm(Reading { receiver, lease })
            }
            // SAFETY: without a lease, it is the box of this value, which is borrowed for reading.
            None => Holder::Port(unsafe { self.owner.cast().as_ref() }),
        }
    }

    /// Returns what it holds, by value.
    #[inline(always)]
    pub(crate) fn into_holder(self) -> Holder<ShmDelivery<'a>, Box<PortDelivery>> {
        let mut held = ManuallyDrop::new(self);
        // SAFETY: it is not used after this, and not dropped.
        unsafe { held.take() }
    }

    /// Returns what it holds.
    ///
    /// # Safety
    /// The caller must not use this value afterwards.
    #[inline(always)]
    unsafe fn take(&mut self) -> Holder<ShmDelivery<'a>, Box<PortDelivery>> {
        match self.lease.take() {
            Some(lease) => {
                // SAFETY: with a lease, it is a `&'a LevelReceiver`.
                let receiver = unsafe { self.owner.cast().as_ref() };
                Holder::Shm(ShmDelivery::new(receiver, lease))
            }
            // SAFETY: without a lease, it is the box of this value, which is not used afterwards.
            None => Holder::Port(unsafe { Box::from_raw(self.owner.cast().as_ptr()) }),
        }
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // Dropping a delivery returns its message.
        // SAFETY: nothing uses a value after its drop.
        drop(unsafe { self.take() });
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holder() {
            Holder::Shm(delivery) => delivery.lease.fmt(f),
            Holder::Port(delivery) => delivery.fmt(f),
        }
    }
}
