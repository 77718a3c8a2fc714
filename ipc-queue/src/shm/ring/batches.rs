//! The parts of a batch: a few claims or leases at a time, on the stack.

use std::array;

/// The maximum number of messages of a batch that are claimed or taken together.
pub const TOGETHER: usize = 8;

/// A few claims or leases, on the stack.
#[derive(Debug)]
pub struct Few<T> {
    items: [Option<T>; TOGETHER],
    len: usize,
}

impl<T> Default for Few<T> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            items: array::from_fn(|_| None),
            len: 0,
        }
    }
}

impl<T> Few<T> {
    /// Adds an item. There is room, because callers ask for at most `TOGETHER`.
    #[inline(always)]
    pub fn push(&mut self, item: T) {
        self.items[self.len] = Some(item);
        self.len += 1;
    }

    /// Returns all items, in order.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items[..self.len].iter().flatten()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Flatten<array::IntoIter<Option<T>, TOGETHER>>;

    #[inline(always)]
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter().flatten()
    }
}
