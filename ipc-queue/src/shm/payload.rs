//! The only module here with `unsafe`: payload bytes in shared memory as slices.
//!
//! Why it is sound. A payload's bytes lie in an inline area or a chunk, which no word ever overlaps
//! (`geometry` has tests for that).
//! 1. [`Writable`] owns a [`Claim`]. The ring makes a `Claim` only by the compare-and-swap that moves a cell to
//!    `WRITING(us)`, and nobody takes that cell from a live process. So its inline bytes are ours alone, and a
//!    chunk allocated for this occupancy is in use exactly as long as the cell is not free.
//! 2. [`Readable`] owns a [`Lease`], made by the compare-and-swap to `LEASED(us)`. Nobody writes a payload after
//!    its publication. The cell becomes free, and its bytes somebody else's, only when we settle or, after
//!    the lease was lost, when our zombie mark goes: both consume the `Readable` first.
//! 3. A process that is killed loses its slices with everything else. A forked copy must not use what it
//!    inherited: calling `fork` is `unsafe` for such reasons. Sending and settling refuse to work there.

use std::sync::Arc;

use ipc_shm::{Attachment, Mapping};

use super::geometry::Geometry;
use super::ring::{Claim, Lease};

/// Where payloads lie in a mapping.
#[derive(Debug)]
pub(crate) struct Payloads {
    mapping: Arc<Mapping>,
    body_at: usize,
    geometry: Geometry,
}

/// Bytes that a sender may write.
#[derive(Debug)]
pub(crate) struct Writable<'a> {
    payloads: &'a Payloads,
    claim: Claim,
    chunk: Option<u32>,
    at: usize,
    len: usize,
}

/// Bytes that a receiver may read.
#[derive(Debug)]
pub(crate) struct Readable<'a> {
    payloads: &'a Payloads,
    lease: Lease,
    at: usize,
    len: usize,
}

/// A place that a header names and that does not exist, or is too small.
#[derive(Debug)]
pub(crate) struct BadPlace {
    /// What is wrong with it.
    pub reason: String,
}

impl Payloads {
    pub(crate) fn new(attachment: &Attachment, geometry: Geometry) -> Self {
        Self {
            mapping: Arc::clone(attachment.segment().mapping()),
            body_at: attachment.segment().header().body_offset,
            geometry,
        }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The first `len` bytes of a claimed cell, or of the chunk that was allocated for the claim.
    pub(crate) fn writable(
        &self,
        claim: Claim,
        chunk: Option<u32>,
        len: usize,
    ) -> Result<Writable<'_>, (Claim, BadPlace)> {
        match self.place(claim.index, chunk, len) {
            Err(bad) => Err((claim, bad)),
            Ok(at) => Ok(Writable {
                payloads: self,
                claim,
                chunk,
                at,
                len,
            }),
        }
    }

    /// The first `len` bytes of a leased cell, or of its chunk.
    pub(crate) fn readable(
        &self,
        lease: Lease,
        chunk: Option<u32>,
        len: usize,
    ) -> Result<Readable<'_>, (Lease, BadPlace)> {
        match self.place(lease.index, chunk, len) {
            Err(bad) => Err((lease, bad)),
            Ok(at) => Ok(Readable {
                payloads: self,
                lease,
                at,
                len,
            }),
        }
    }

    /// A copy of bytes that may be changing: the caller compares the cell's word before and after.
    pub(crate) fn snapshot(&self, cell: u32, chunk: Option<u32>, len: usize) -> Option<Vec<u8>> {
        let at = self.place(cell, chunk, len).ok()?;
        let mut copy = vec![0; len];
        self.mapping.copy_racy(at, &mut copy).ok()?;
        Some(copy)
    }

    fn place(&self, cell: u32, chunk: Option<u32>, len: usize) -> Result<usize, BadPlace> {
        let (at, most) = match chunk {
            None => (self.geometry.inline_at(cell), self.geometry.inline_bytes),
            Some(chunk) => self.geometry.chunk_at(chunk).ok_or_else(|| BadPlace {
                reason: format!(
                    "cell {cell} names chunk {chunk} of {}",
                    self.geometry.chunks()
                ),
            })?,
        };
        if len > most {
            let reason =
                format!("cell {cell} says its payload has {len} bytes, but {most} fit there");
            return Err(BadPlace { reason });
        }
        Ok(self.body_at + at)
    }
}

impl<'a> Writable<'a> {
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(crate) fn chunk(&self) -> Option<u32> {
        self.chunk
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Ends the right to write.
    pub(crate) fn into_claim(self) -> Claim {
        self.claim
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: ours alone to write while `self.claim` lives (1), and borrowed for reading now.
        let bytes = unsafe { self.payloads.mapping.bytes(self.at, self.len) };
        bytes.expect("inside the segment: `place` checked it")
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: ours alone while `self.claim` lives (1), and borrowed exclusively.
        let bytes = unsafe { self.payloads.mapping.bytes_mut(self.at, self.len) };
        bytes.expect("inside the segment: `place` checked it")
    }

    /// Copies the payload to another claim's cell. For payloads in the cell itself.
    pub(crate) fn copy_to(&self, target: &mut Writable<'_>) {
        target.bytes_mut().copy_from_slice(self.bytes());
    }
}

impl Readable<'_> {
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Ends the right to read.
    pub(crate) fn into_lease(self) -> Lease {
        self.lease
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: nobody writes the payload while `self.lease` lives, lost or not (2).
        let bytes = unsafe { self.payloads.mapping.bytes(self.at, self.len) };
        bytes.expect("inside the segment: `place` checked it")
    }
}
