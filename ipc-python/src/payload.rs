//! The bytes of Python objects, for copying into a queue.
//!
//! The only module with `unsafe` besides `view.rs`: PyO3 gives an exporter's bytes as a pointer.

use std::slice;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Copies of more bytes than this are made without the interpreter's lock.
pub const DETACH_FROM: usize = 64 << 10;

/// The contiguous bytes of an object, which stay where they are while this is held.
pub enum Payload<'py> {
    Bytes(Bound<'py, PyBytes>),
    Buffer(PyBuffer<u8>),
}

impl<'py> Payload<'py> {
    pub fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone()));
        }
        let buffer = PyBuffer::<u8>::get(object)?;
        if !buffer.is_c_contiguous() {
            let text = "the bytes are not contiguous: copy them first, with bytes(...)";
            return Err(PyBufferError::new_err(text));
        }
        Ok(Self::Buffer(buffer))
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Buffer(buffer) if buffer.len_bytes() == 0 => &[],
            Self::Buffer(buffer) => {
                let start = buffer.buf_ptr().cast::<u8>().cast_const();
                // SAFETY: the exporter keeps `len_bytes` contiguous bytes (checked in `of`) in
                // place until the buffer is released, which `self` outlives. Other Python threads
                // may write them at the same time if the caller lets them, as with any buffer that
                // is read without the interpreter's lock (`hashlib`, `zlib`). The copy is then a
                // mixture, which is a race in the calling program. The bytes are only copied.
                unsafe { slice::from_raw_parts(start, buffer.len_bytes()) }
            }
        }
    }
}
