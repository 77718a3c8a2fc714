//! Bytes as Python's buffer protocol exports them.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Whether Python may write what a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    Writable,
}

/// Fills `view` with `length` bytes from `start` on, which `owner` keeps in place.
///
/// # Safety
/// `view` is valid and writable. The bytes stay where they are until the view is released; the view
/// holds a reference to `owner` until then. If it is read-only, nobody writes them meanwhile; if it
/// is writable, no Rust reference to them exists meanwhile.
pub unsafe fn export(
    owner: &Bound<'_, PyAny>,
    (start, length): (*const u8, usize),
    access: Access,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let length = ffi::Py_ssize_t::try_from(length)
        .map_err(|_| PyBufferError::new_err("more bytes than a view can have"))?;
    let start = start.cast::<c_void>().cast_mut();
    let read_only = c_int::from(access == Access::ReadOnly);
    // SAFETY: the caller vouches for `view` and for the bytes; read-only views are never written.
    let filled =
        unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, length, read_only, flags) };
    if filled == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}
