//! The only module here with `unsafe`: payload bytes in shared memory as slices.
//!
//! Why it is sound. A payload's bytes are in an inline area or a chunk, which no word ever overlaps
//! (tests in `geometry` check that).
//! 1. [`Writable`] owns a [`Claim`]. The ring creates a `Claim` only by the compare-and-swap that
//!    moves a cell to `WRITING(us)`, and no process takes that cell from a live process. So only
//!    this process accesses its inline bytes, and a chunk allocated for this generation is in use
//!    exactly while the cell is not free.
//! 2. [`Payloads::read`] borrows a [`Lease`], created by the compare-and-swap to `LEASED(us)`. No
//!    process writes a payload after its publication. The cell becomes free, and its bytes
//!    another's, only when this process settles or, after the lease was lost, removes its zombie
//!    mark. Both end the borrow first. An [`OwnedReadable`] owns the lease.
//! 3. `at` and `len` were checked to be inside the mapping, which lives as long as the `Payloads`
//!    that all borrow. An [`OwnedReadable`] and an [`OwnedWritable`] keep the mapping itself.
//! 4. A process that is killed loses its slices with everything else. A forked copy must not use
//!    what it inherited: calling `fork` is `unsafe` for such reasons. Sending and settling refuse
//!    to work there.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use ipc_proto::Headers;
use ipc_shm::{Mapping, OutOfBounds, Segment};

use super::cell::Body;
use super::geometry::{Geometry, LENGTH_BYTES};
use super::ring::{Claim, Lease};

/// Returns the encoded headers as they follow a payload, with their length in front.
pub(super) fn trailer(headers: &Headers) -> Vec<u8> {
    let encoded = headers.encode();
    // Does not truncate: at most `Headers::MAX_BYTES`.
    let mut trailer = (encoded.len() as u16).to_le_bytes().to_vec();
    trailer.extend(encoded);
    trailer
}

/// The payloads in a mapping.
#[derive(Debug)]
pub(crate) struct Payloads {
    mapping: Arc<Mapping>,
    body_at: usize,
    geometry: Geometry,
    /// The payload of the first cell.
    first_inline: NonNull<u8>,
    /// The first unit of payload memory.
    first_unit: NonNull<u8>,
}

// SAFETY: `first_inline` and `first_unit` only point into the mapping, which is `Send` and `Sync`
// itself.
unsafe impl Send for Payloads {}
// SAFETY: as above.
unsafe impl Sync for Payloads {}

/// Bytes that a sender may write.
#[derive(Debug)]
pub(crate) struct Writable<'a> {
    claim: Claim,
    chunk: Option<u32>,
    at: NonNull<u8>,
    len: usize,
    _payloads: PhantomData<&'a Payloads>,
}

/// The same as `Writable` without a borrow: it keeps the mapping itself.
#[derive(Debug)]
pub(crate) struct OwnedWritable {
    /// Never leaves this value, except with a borrow of the payloads.
    bytes: Writable<'static>,
    mapping: Arc<Mapping>,
}

/// Bytes that a receiver may read, without a borrow: it keeps the mapping itself.
#[derive(Debug)]
pub(crate) struct OwnedReadable {
    lease: Lease,
    at: NonNull<u8>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: the owner of this value has the right to the bytes, in any thread (1).
unsafe impl Send for Writable<'_> {}
// SAFETY: a shared reference to it only reads the bytes, and no process writes them meanwhile (1).
unsafe impl Sync for Writable<'_> {}
// SAFETY: as for `Writable`.
unsafe impl Send for OwnedReadable {}
// SAFETY: as for `Writable`.
unsafe impl Sync for OwnedReadable {}

/// A place that a header names, but that does not exist or is too small.
#[derive(Debug)]
pub(crate) struct BadPlace {
    /// The problem.
    pub reason: String,
}

impl Payloads {
    pub(crate) fn new(segment: &Segment, geometry: Geometry) -> Result<Self, OutOfBounds> {
        let mapping = segment.mapping();
        let body_at = segment.header().body_offset + geometry.at;
        let inline_bytes = geometry.tags_at - geometry.inline_at(0);
        Ok(Self {
            first_inline: mapping.pointer(body_at + geometry.inline_at(0), inline_bytes)?,
            first_unit: mapping.pointer(body_at + geometry.pool_at, geometry.pool_bytes())?,
            mapping: Arc::clone(mapping),
            body_at,
            geometry,
        })
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the first `len` bytes of a claimed cell, or of the chunk that was allocated for the
    /// claim.
    #[inline(always)]
    pub(crate) fn writable(
        &self,
        claim: Claim,
        chunk: Option<u32>,
        len: usize,
    ) -> Result<Writable<'_>, (Claim, BadPlace)> {
        match self.place(claim.index(), chunk, len) {
            Err(bad) => Err((claim, bad)),
            Ok(at) => Ok(Writable {
                claim,
                chunk,
                at,
                len,
                _payloads: PhantomData,
            }),
        }
    }

    /// Returns the place of the first `len` payload bytes in a cell. `None`: it has fewer, or does
    /// not exist.
    #[inline(always)]
    fn in_cell(&self, cell: u32, len: usize) -> Option<NonNull<u8>> {
        if len > self.geometry.inline_bytes || cell >= self.geometry.cells {
            return None;
        }
        let offset = cell as usize * self.geometry.cell_bytes;
        // SAFETY: every cell is inside the mapping, as checked in `new`.
        Some(unsafe { self.first_inline.add(offset) })
    }

    /// Returns the place of `len` bytes in the units from `chunk` on. `None`: there are fewer.
    #[inline(always)]
    fn in_chunk(&self, chunk: u32, len: usize) -> Option<NonNull<u8>> {
        let at = (chunk as usize) << self.geometry.unit_shift;
        if at + len > self.geometry.pool_bytes() {
            return None;
        }
        // SAFETY: all units are inside the mapping, as checked in `new`, and `at` is among them or
        // behind the last one.
        Some(unsafe { self.first_unit.add(at) })
    }

    /// Returns the payload of a leased message that is in its cell. `None`: it is elsewhere, or
    /// damaged.
    #[inline(always)]
    pub(crate) fn read_in_cell<'d>(&'d self, lease: &'d Lease, body: Body) -> Option<&'d [u8]> {
        let len = body.len as usize;
        if body.chunk.is_some() {
            return None;
        }
        let at = self.in_cell(lease.index(), len)?;
        // SAFETY: no process writes the payload while `lease` lives, lost or not (2), and it is
        // mapped (3).
        Some(unsafe { slice::from_raw_parts(at.as_ptr(), len) })
    }

    /// Returns the payload of a leased message that is in a chunk. `None`: it is elsewhere, has
    /// headers, or is damaged.
    #[inline(always)]
    pub(crate) fn read_in_chunk<'d>(&'d self, _lease: &'d Lease, body: Body) -> Option<&'d [u8]> {
        let len = body.len as usize;
        let at = self.in_chunk(body.chunk?, len)?;
        // SAFETY: as in `read_in_cell`.
        Some(unsafe { slice::from_raw_parts(at.as_ptr(), len) })
    }

    /// Returns the payload of a leased message, whose header says where it is.
    pub(crate) fn read<'d>(&'d self, lease: &'d Lease, body: Body) -> Result<&'d [u8], BadPlace> {
        let len = body.len as usize;
        let at = self.place(lease.index(), body.chunk, len)?;
        // SAFETY: no process writes the payload while `lease` lives, lost or not (2), and it is
        // mapped (3).
        Ok(unsafe { slice::from_raw_parts(at.as_ptr(), len) })
    }

    /// Returns the same for a lease without a borrow. Nothing, if there is no such place.
    pub(crate) fn own(&self, lease: Lease, body: Body) -> OwnedReadable {
        let len = body.len as usize;
        let place = self.place(lease.index(), body.chunk, len);
        OwnedReadable {
            lease,
            len: place.as_ref().map_or(0, |_| len),
            at: place.unwrap_or(self.first_inline),
            _mapping: Arc::clone(&self.mapping),
        }
    }

    /// Returns a copy of bytes that may be changing: the caller compares the cell's word before and
    /// after.
    #[inline]
    pub(crate) fn snapshot(&self, cell: u32, chunk: Option<u32>, len: usize) -> Option<Vec<u8>> {
        // The tag is not checked: a damaged length must not cost more than a payload.
        let is_possible = len <= self.geometry.largest_bytes;
        let offset = self.offset(cell, chunk, len).ok().filter(|_| is_possible)?;
        let mut copy = vec![0; len];
        self.mapping.copy_racy(offset, &mut copy).ok()?;
        Some(copy)
    }

    /// Returns the number of bytes after a payload that has headers. From shared memory, and
    /// checked.
    pub(super) fn trailer_bytes(&self, cell: u32, body: Body) -> Result<usize, BadPlace> {
        let at = self.behind(cell, body, LENGTH_BYTES)?;
        let mut length = [0; LENGTH_BYTES];
        let copied = self.mapping.copy_racy(at, &mut length);
        let length = usize::from(u16::from_le_bytes(length));
        if copied.is_err() || length > Headers::MAX_BYTES {
            return Err(BadPlace::headers(cell));
        }
        Ok(LENGTH_BYTES + length)
    }

    /// Returns the headers after a payload that has some. As with [`snapshot`](Self::snapshot), the
    /// bytes may be changing; they are copied before they are decoded.
    pub(super) fn headers(&self, cell: u32, body: Body) -> Result<Headers, BadPlace> {
        let mut trailer = vec![0; self.trailer_bytes(cell, body)?];
        let at = self.behind(cell, body, trailer.len())?;
        let copied = self.mapping.copy_racy(at, &mut trailer);
        let headers = Headers::decode(&trailer[LENGTH_BYTES..]);
        match (copied, headers) {
            (Ok(()), Ok(headers)) => Ok(headers),
            _ => Err(BadPlace::headers(cell)),
        }
    }

    /// Returns the offset of the bytes after a payload, if there is room for `count` of them.
    fn behind(&self, cell: u32, body: Body, count: usize) -> Result<usize, BadPlace> {
        let len = body.len as usize;
        Ok(self.offset(cell, body.chunk, len + count)? + len)
    }

    #[inline(always)]
    fn place(&self, cell: u32, chunk: Option<u32>, len: usize) -> Result<NonNull<u8>, BadPlace> {
        let place = match chunk {
            None => self.in_cell(cell, len),
            Some(chunk) => self.in_chunk(chunk, len),
        };
        place.ok_or_else(|| self.no_place(cell, chunk, len))
    }

    #[cold]
    fn no_place(&self, cell: u32, chunk: Option<u32>, len: usize) -> BadPlace {
        let reason = || format!("cell {cell} of {} has no payload", self.geometry.cells);
        let found = self.offset(cell, chunk, len);
        found.err().unwrap_or_else(|| BadPlace { reason: reason() })
    }

    fn offset(&self, cell: u32, chunk: Option<u32>, len: usize) -> Result<usize, BadPlace> {
        let (at, most) = match chunk {
            None => (self.geometry.inline_at(cell), self.geometry.inline_bytes),
            Some(chunk) => self.chunk_at(cell, chunk)?,
        };
        if len > most {
            return Err(BadPlace::too_long(cell, len, most));
        }
        Ok(self.body_at + at)
    }

    fn chunk_at(&self, cell: u32, chunk: u32) -> Result<(usize, usize), BadPlace> {
        self.geometry.chunk_at(chunk).ok_or_else(|| BadPlace {
            reason: format!("cell {cell} names unit {chunk} of {}", self.geometry.units),
        })
    }
}

impl BadPlace {
    #[cold]
    fn headers(cell: u32) -> Self {
        let reason = format!("cell {cell} has headers that cannot be decoded");
        Self { reason }
    }

    #[cold]
    fn too_long(cell: u32, len: usize, most: usize) -> Self {
        let reason = format!("cell {cell} claims a payload of {len} bytes, but only {most} fit");
        Self { reason }
    }
}

impl<'a> Writable<'a> {
    #[inline]
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    #[inline]
    pub(crate) fn chunk(&self) -> Option<u32> {
        self.chunk
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives up the bytes from `len` on, which stay unchanged.
    pub(super) fn cut(mut self, len: usize) -> Self {
        self.len = self.len.min(len);
        self
    }

    /// Ends the right to write.
    #[inline(always)]
    pub(crate) fn into_claim(self) -> Claim {
        self.claim
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: only this process writes the bytes while `self.claim` lives (1). They are
        // borrowed for reading now, and mapped (3).
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: only this process accesses the bytes while `self.claim` lives (1). They are
        // borrowed exclusively, and mapped (3).
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// Copies the payload to another claim's cell. For payloads in the cell itself.
    #[inline]
    pub(crate) fn copy_to(&self, target: &mut Writable<'_>) {
        target.bytes_mut().copy_from_slice(self.bytes());
    }
}

impl Writable<'_> {
    /// Keeps the bytes without a borrow of `payloads`, from which they are.
    pub(super) fn into_owned(self, payloads: &Payloads) -> OwnedWritable {
        OwnedWritable {
            bytes: Writable {
                claim: self.claim,
                chunk: self.chunk,
                at: self.at,
                len: self.len,
                _payloads: PhantomData,
            },
            mapping: Arc::clone(&payloads.mapping),
        }
    }
}

impl OwnedWritable {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.bytes_mut()
    }

    /// Returns the bytes with a borrow of `payloads`, from which they are.
    pub(super) fn into_borrowed(self, payloads: &Payloads) -> Writable<'_> {
        assert!(
            Arc::ptr_eq(&self.mapping, &payloads.mapping),
            "bytes of another mapping"
        );
        self.bytes
    }
}

impl OwnedReadable {
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: no process writes the payload while `self.lease` lives, lost or not (2), and
        // `_mapping` keeps it mapped (3).
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}
