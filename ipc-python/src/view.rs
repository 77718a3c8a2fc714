//! Bytes as Python's buffer protocol exports them.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Whether Python may write through a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    Writable,
}

/// Fills `view` with `length` bytes from `start` on, which `owner` keeps in place.
///
/// # Safety
/// `view` is valid and writable. The bytes stay where they are until the view is released; the view
/// holds a reference to `owner` until then. During that time, nothing writes them if the view is
/// read-only, and no Rust reference to them exists if it is writable.
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
    // SAFETY: the caller guarantees that `view` and the bytes are valid; read-only views are never
    // written.
    let filled =
        unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start, length, read_only, flags) };
    if filled == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}
