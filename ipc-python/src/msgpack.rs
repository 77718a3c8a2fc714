//! MessagePack of plain Python values, compatible with Rust's `Encoding::MessagePack`: objects are
//! maps with the names of their fields.

use pyo3::exceptions::{PyOverflowError, PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple,
};

use crate::payload::Payload;

/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 200;

/// Returns the MessagePack bytes of a value. An object without a form of its own is passed to
/// `default`.
#[pyfunction]
#[pyo3(signature = (value, default = None))]
pub fn pack<'py>(
    value: &Bound<'py, PyAny>,
    default: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut bytes = Vec::with_capacity(64);
    append(value, default, &mut bytes, 0)?;
    Ok(PyBytes::new(value.py(), &bytes))
}

/// Returns the value of MessagePack bytes.
#[pyfunction]
pub fn unpack<'py>(bytes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let payload = Payload::of(bytes)?;
    let mut reader = Reader {
        py: bytes.py(),
        rest: payload.bytes(),
    };
    let value = reader.value(0)?;
    if reader.rest.is_empty() {
        return Ok(value);
    }
    let text = format!("{} bytes are left over behind the value", reader.rest.len());
    Err(PyValueError::new_err(text))
}

fn append<'py>(
    value: &Bound<'py, PyAny>,
    default: Option<&Bound<'py, PyAny>>,
    bytes: &mut Vec<u8>,
    depth: usize,
) -> PyResult<()> {
    if depth > MAX_DEPTH {
        let text = format!("values are nested deeper than {MAX_DEPTH}");
        return Err(PyRecursionError::new_err(text));
    }
    if value.is_none() {
        bytes.push(0xc0);
    } else if let Ok(value) = value.cast::<PyBool>() {
        bytes.push(if value.is_true() { 0xc3 } else { 0xc2 });
    } else if let Ok(text) = value.cast::<PyString>() {
        append_text(&text.to_cow()?, bytes)?;
    } else if value.is_instance_of::<PyInt>() {
        append_int(value, bytes)?;
    } else if value.is_instance_of::<PyFloat>() {
        bytes.push(0xcb);
        bytes.extend(value.extract::<f64>()?.to_be_bytes());
    } else if let Ok(map) = value.cast::<PyDict>() {
        append_length(
            map.len(),
            Some((0x80, 15)),
            [None, Some(0xde), Some(0xdf)],
            bytes,
        )?;
        for (key, value) in map {
            append(&key, default, bytes, depth + 1)?;
            append(&value, default, bytes, depth + 1)?;
        }
    } else if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let length = value.len()?;
        append_length(
            length,
            Some((0x90, 15)),
            [None, Some(0xdc), Some(0xdd)],
            bytes,
        )?;
        for item in value.try_iter()? {
            append(&item?, default, bytes, depth + 1)?;
        }
    } else if value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyByteArray>()
        || value.is_instance_of::<PyMemoryView>()
    {
        let payload = Payload::of(value)?;
        let content = payload.bytes();
        let wide = [Some(0xc4), Some(0xc5), Some(0xc6)];
        append_length(content.len(), None, wide, bytes)?;
        bytes.extend_from_slice(content);
    } else if let Some(convert) = default {
        append(&convert.call1((value,))?, default, bytes, depth + 1)?;
    } else {
        let text = format!("{} has no form in MessagePack", value.get_type().name()?);
        return Err(PyTypeError::new_err(text));
    }
    Ok(())
}

fn append_text(text: &str, bytes: &mut Vec<u8>) -> PyResult<()> {
    let wide = [Some(0xd9), Some(0xda), Some(0xdb)];
    append_length(text.len(), Some((0xa0, 31)), wide, bytes)?;
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

fn append_int(value: &Bound<'_, PyAny>, bytes: &mut Vec<u8>) -> PyResult<()> {
    if let Ok(number) = value.extract::<u64>() {
        match number {
            0..=0x7f => bytes.push(number as u8),
            0x80..=0xff => bytes.extend([0xcc, number as u8]),
            0x100..=0xffff => {
                bytes.push(0xcd);
                bytes.extend((number as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                bytes.push(0xce);
                bytes.extend((number as u32).to_be_bytes());
            }
            _ => {
                bytes.push(0xcf);
                bytes.extend(number.to_be_bytes());
            }
        }
        return Ok(());
    }
    let Ok(number) = value.extract::<i64>() else {
        let text = "MessagePack has integers from -2**63 to 2**64 - 1 only";
        return Err(PyOverflowError::new_err(text));
    };
    if number >= -32 {
        bytes.push(number as i8 as u8);
    } else if let Ok(number) = i8::try_from(number) {
        bytes.extend([0xd0, number as u8]);
    } else if let Ok(number) = i16::try_from(number) {
        bytes.push(0xd1);
        bytes.extend(number.to_be_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        bytes.push(0xd2);
        bytes.extend(number.to_be_bytes());
    } else {
        bytes.push(0xd3);
        bytes.extend(number.to_be_bytes());
    }
    Ok(())
}

/// Appends the shortest head for a length: in the marker itself up to the limit in `fixed`, else
/// after a marker for one, two or four bytes.
fn append_length(
    length: usize,
    fixed: Option<(u8, usize)>,
    wide: [Option<u8>; 3],
    bytes: &mut Vec<u8>,
) -> PyResult<()> {
    if let Some((marker, most)) = fixed
        && length <= most
    {
        bytes.push(marker | length as u8);
    } else if let (Some(marker), Ok(length)) = (wide[0], u8::try_from(length)) {
        bytes.extend([marker, length]);
    } else if let (Some(marker), Ok(length)) = (wide[1], u16::try_from(length)) {
        bytes.push(marker);
        bytes.extend(length.to_be_bytes());
    } else if let (Some(marker), Ok(length)) = (wide[2], u32::try_from(length)) {
        bytes.push(marker);
        bytes.extend(length.to_be_bytes());
    } else {
        return Err(PyOverflowError::new_err(
            "MessagePack has lengths up to 2**32 - 1 only",
        ));
    }
    Ok(())
}

struct Reader<'py, 'b> {
    py: Python<'py>,
    rest: &'b [u8],
}

impl<'py, 'b> Reader<'py, 'b> {
    fn value(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        if depth > MAX_DEPTH {
            let text = format!("values are nested deeper than {MAX_DEPTH}");
            return Err(PyRecursionError::new_err(text));
        }
        let py = self.py;
        let marker = self.number::<1>()? as u8;
        Ok(match marker {
            0x00..=0x7f => marker.into_pyobject(py)?.into_any(),
            0xe0..=0xff => (marker as i8).into_pyobject(py)?.into_any(),
            0x80..=0x8f => self.map((marker & 0x0f).into(), depth)?,
            0x90..=0x9f => self.list((marker & 0x0f).into(), depth)?,
            0xa0..=0xbf => self.text((marker & 0x1f).into())?,
            0xc0 => py.None().into_bound(py),
            0xc2 | 0xc3 => PyBool::new(py, marker == 0xc3).to_owned().into_any(),
            0xc4 => self.binary::<1>()?,
            0xc5 => self.binary::<2>()?,
            0xc6 => self.binary::<4>()?,
            0xca => {
                let number = f32::from_bits(self.number::<4>()? as u32);
                f64::from(number).into_pyobject(py)?.into_any()
            }
            0xcb => f64::from_bits(self.number::<8>()?)
                .into_pyobject(py)?
                .into_any(),
            0xcc => self.number::<1>()?.into_pyobject(py)?.into_any(),
            0xcd => self.number::<2>()?.into_pyobject(py)?.into_any(),
            0xce => self.number::<4>()?.into_pyobject(py)?.into_any(),
            0xcf => self.number::<8>()?.into_pyobject(py)?.into_any(),
            0xd0 => (self.number::<1>()? as i8).into_pyobject(py)?.into_any(),
            0xd1 => (self.number::<2>()? as i16).into_pyobject(py)?.into_any(),
            0xd2 => (self.number::<4>()? as i32).into_pyobject(py)?.into_any(),
            0xd3 => (self.number::<8>()? as i64).into_pyobject(py)?.into_any(),
            0xd9 => self.long_text::<1>()?,
            0xda => self.long_text::<2>()?,
            0xdb => self.long_text::<4>()?,
            0xdc => self.long_list::<2>(depth)?,
            0xdd => self.long_list::<4>(depth)?,
            0xde => self.long_map::<2>(depth)?,
            0xdf => self.long_map::<4>(depth)?,
            other => {
                let text = format!("MessagePack marker {other:#04x} is not supported");
                return Err(PyValueError::new_err(text));
            }
        })
    }

    fn bytes(&mut self, count: usize) -> PyResult<&'b [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            let text = format!(
                "{count} bytes are expected, and {} are left",
                self.rest.len()
            );
            return Err(PyValueError::new_err(text));
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn number<const BYTES: usize>(&mut self) -> PyResult<u64> {
        let bytes = self.bytes(BYTES)?.iter();
        Ok(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn binary<const BYTES: usize>(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let length = self.number::<BYTES>()? as usize;
        Ok(PyBytes::new(self.py, self.bytes(length)?).into_any())
    }

    fn long_text<const BYTES: usize>(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let length = self.number::<BYTES>()? as usize;
        self.text(length)
    }

    fn text(&mut self, length: usize) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.bytes(length)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| PyValueError::new_err(format!("a string is not UTF-8: {error}")))?;
        Ok(PyString::new(self.py, text).into_any())
    }

    fn long_list<const BYTES: usize>(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let count = self.number::<BYTES>()? as usize;
        self.list(count, depth)
    }

    /// The list grows as items are read: the count alone reserves no memory.
    fn list(&mut self, count: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let list = PyList::empty(self.py);
        for _ in 0..count {
            list.append(self.value(depth + 1)?)?;
        }
        Ok(list.into_any())
    }

    fn long_map<const BYTES: usize>(&mut self, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let count = self.number::<BYTES>()? as usize;
        self.map(count, depth)
    }

    fn map(&mut self, count: usize, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        let map = PyDict::new(self.py);
        for _ in 0..count {
            let key = self.value(depth + 1)?;
            map.set_item(key, self.value(depth + 1)?)?;
        }
        Ok(map.into_any())
    }
}
