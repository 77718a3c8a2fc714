//! Bytes as Python's buffer protocol exports them.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Fills `view` with read-only `bytes` that `owner` keeps in place.
///
/// # Safety
/// `view` is valid and writable. `bytes` stay where they are, and are not written, until the view is
/// released; the view holds a reference to `owner` until then.
pub unsafe fn export(
    owner: &Bound<'_, PyAny>,
    bytes: &[u8],
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let length = ffi::Py_ssize_t::try_from(bytes.len())
        .map_err(|_| PyBufferError::new_err("more bytes than a view can have"))?;
    let start = bytes.as_ptr().cast::<c_void>().cast_mut();
    const READ_ONLY: c_int = 1;
    // SAFETY: the caller vouches for `view` and for the bytes; read-only views are never written.
    let filled =
        unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, length, READ_ONLY, flags) };
    if filled == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}
