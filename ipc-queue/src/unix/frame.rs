//! Frames: the format of requests and answers on the stream.
//!
//! ```text
//! frame   = length | envelope | payload
//! length  = length of the rest: u32, little-endian, at most MAX_FRAME_BYTES
//! envelope: encoded by ipc_proto::codec
//! ```
//!
//! The codec's version byte comes first. A payload larger than [`MAX_INLINE_BYTES`] is not in the
//! frame, but in a sealed memory file (`memfd.rs`), whose descriptor accompanies the frame. A frame
//! that is too long, of another version, or malformed is an error. After that nothing more can be
//! read from the stream, because the end of the frame is unknown.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ipc_proto::codec;
use ipc_shm::KeptSocket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::memfd::Sealed;
use super::wire_error::WireError;

/// The largest payload, in bytes, that travels in a frame.
pub(super) const MAX_INLINE_BYTES: usize = 64 << 10;
/// The largest frame, in bytes.
pub(super) const MAX_FRAME_BYTES: usize = MAX_INLINE_BYTES + (16 << 10);
const LENGTH_BYTES: usize = size_of::<u32>();
/// The initial size of the buffer. Most frames are small.
const SMALL_BYTES: usize = 4 << 10;

/// The head of each frame.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    /// The number of the request, or of the request that is answered. 0: neither.
    id: u32,
    body: Body,
    what: T,
}

/// The place of the payload.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Body {
    None,
    /// In the rest of the frame.
    Inline,
    /// In the accompanying descriptor.
    Sealed {
        bytes: u64,
    },
}

/// A received frame.
#[derive(Debug)]
pub(super) struct Received<T> {
    pub(super) id: u32,
    pub(super) what: T,
    pub(super) payload: Payload,
}

/// A received payload.
#[derive(Debug)]
pub(super) enum Payload {
    Inline(Vec<u8>),
    Sealed(Sealed),
}

/// A payload to send.
#[derive(Debug)]
pub(super) enum Carried<'a> {
    None,
    /// Several parts, one after the other.
    Inline(&'a [&'a [u8]]),
    Sealed(Sealed),
}

/// Reads frames, and keeps the received beginning of the next one.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// The number of bytes in the buffer that were received and not taken yet.
    filled: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Sealed(sealed) => usize::try_from(sealed.bytes()).unwrap_or(usize::MAX),
        }
    }

    /// Copies the payload. `into` has the same length.
    pub(super) fn copy_to(&self, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Inline(bytes) => into.copy_from_slice(bytes),
            Self::Sealed(sealed) => sealed.read(into)?,
        }
        Ok(())
    }

    /// Returns the payload as owned bytes, at most `most`.
    pub(super) fn into_bytes(self, most: usize) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Inline(bytes) => Ok(bytes),
            Self::Sealed(sealed) => {
                let len = usize::try_from(sealed.bytes()).unwrap_or(usize::MAX);
                if len > most {
                    return Err(WireError::TooLarge { bytes: len, most });
                }
                let mut bytes = vec![0; len];
                sealed.read(&mut bytes).map_err(WireError::io)?;
                Ok(bytes)
            }
        }
    }
}

impl<'a> Carried<'a> {
    /// Carries `payload` in the frame or beside it, by its size.
    pub(super) fn of(payload: &'a [&'a [u8]; 1]) -> io::Result<Self> {
        if payload[0].len() <= MAX_INLINE_BYTES {
            Ok(Self::Inline(payload))
        } else {
            Ok(Self::Sealed(Sealed::copy_of(payload[0])?))
        }
    }
}

/// Writes a first frame: it has no envelope, so that every version can read its beginning.
pub(super) fn write_raw<T: Serialize>(socket: &KeptSocket, what: &T) -> Result<(), WireError> {
    let bytes = codec::encode(what)?;
    let length = (bytes.len() as u32).to_le_bytes();
    let mut slices = [IoSlice::new(&length), IoSlice::new(&bytes)];
    send_all(socket, &mut slices, None)
}

/// Writes a frame, and blocks until the other side or the kernel has taken it. `scratch` is only a
/// buffer.
pub(super) fn write<T: Serialize>(
    socket: &KeptSocket,
    scratch: &mut Vec<u8>,
    id: u32,
    what: &T,
    carried: &Carried<'_>,
) -> Result<(), WireError> {
    let (body, parts): (_, &[&[u8]]) = match carried {
        Carried::None => (Body::None, &[]),
        Carried::Inline(parts) => (Body::Inline, parts),
        Carried::Sealed(sealed) => {
            let bytes = sealed.bytes();
            (Body::Sealed { bytes }, &[])
        }
    };
    codec::encode_into(&Envelope { id, body, what }, scratch)?;
    let bytes = scratch.len() + parts.iter().map(|part| part.len()).sum::<usize>();
    if bytes > MAX_FRAME_BYTES {
        return Err(WireError::TooLarge {
            bytes,
            most: MAX_FRAME_BYTES,
        });
    }
    let length = (bytes as u32).to_le_bytes();
    let mut slices = Vec::with_capacity(2 + parts.len());
    slices.extend([IoSlice::new(&length), IoSlice::new(scratch)]);
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    let descriptor = match carried {
        Carried::Sealed(sealed) => Some(sealed.as_fd()),
        _ => None,
    };
    send_all(socket, &mut slices, descriptor)
}

/// Sends a descriptor that the other side does not expect.
#[cfg(test)]
pub(super) fn send_descriptor(socket: &KeptSocket, descriptor: BorrowedFd<'_>) {
    let envelope = Envelope {
        id: 9,
        body: Body::None,
        what: (),
    };
    let bytes = codec::encode(&envelope).unwrap();
    let length = (bytes.len() as u32).to_le_bytes();
    let mut slices = [IoSlice::new(&length), IoSlice::new(&bytes)];
    send_all(socket, &mut slices, Some(descriptor)).unwrap();
}

fn send_all(
    socket: &KeptSocket,
    mut slices: &mut [IoSlice<'_>],
    mut descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), WireError> {
    /// The kernel takes no more slices in one call.
    const MOST_SLICES: usize = 1024;
    while slices.iter().any(|slice| !slice.is_empty()) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let now = &slices[..slices.len().min(MOST_SLICES)];
        let stream = socket.stream().map_err(WireError::io)?;
        match sendmsg(stream, now, &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                // The descriptor is sent with the first byte.
                descriptor = None;
                IoSlice::advance_slices(&mut slices, sent);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(WireError::io(error)),
        }
    }
    Ok(())
}

impl Reader {
    /// Reads the next frame. `None`: it did not arrive in time; a received part is kept.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        socket: &KeptSocket,
        until: Option<Instant>,
    ) -> Result<Option<Received<T>>, WireError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if until.is_some() && !wait_for([socket.as_fd()], until).map_err(WireError::io)?[0] {
                return Ok(None);
            }
            self.fill(socket)?;
        }
    }

    /// Reads the next frame without decoding it; it has no payload. For the first frame, which
    /// another version may have written.
    pub(super) fn read_raw(
        &mut self,
        socket: &KeptSocket,
        until: Option<Instant>,
    ) -> Result<Option<Vec<u8>>, WireError> {
        loop {
            if let Some(bytes) = self.length()?
                && self.filled >= LENGTH_BYTES + bytes
            {
                let raw = self.buffer[LENGTH_BYTES..LENGTH_BYTES + bytes].to_vec();
                self.drop_frame(bytes)?;
                return Ok(Some(raw));
            }
            if !wait_for([socket.as_fd()], until).map_err(WireError::io)?[0] {
                return Ok(None);
            }
            self.fill(socket)?;
        }
    }

    /// Returns the next frame, if it was received completely.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<Received<T>>, WireError> {
        let Some(bytes) = self.length()? else {
            return Ok(None);
        };
        let end = LENGTH_BYTES + bytes;
        if self.filled < end {
            return Ok(None);
        }
        let (envelope, content) =
            codec::decode_prefix::<Envelope<T>>(&self.buffer[LENGTH_BYTES..end])?;
        let payload = match envelope.body {
            Body::Inline => Payload::Inline(content.to_vec()),
            Body::None | Body::Sealed { .. } if !content.is_empty() => {
                let bytes = content.len();
                return Err(WireError::Trailing { bytes });
            }
            Body::None => Payload::Inline(Vec::new()),
            Body::Sealed { bytes } => {
                let descriptor = self.descriptors.pop_front();
                Payload::Sealed(Sealed::accept(
                    descriptor.ok_or(WireError::NoDescriptor)?,
                    bytes,
                )?)
            }
        };
        self.drop_frame(bytes)?;
        Ok(Some(Received {
            id: envelope.id,
            what: envelope.what,
            payload,
        }))
    }

    fn drop_frame(&mut self, bytes: usize) -> Result<(), WireError> {
        let end = LENGTH_BYTES + bytes;
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        if self.filled == 0 && !self.descriptors.is_empty() {
            return Err(WireError::Descriptors);
        }
        Ok(())
    }

    /// Returns the length of the next frame, if that was received.
    fn length(&self) -> Result<Option<usize>, WireError> {
        if self.filled < LENGTH_BYTES {
            return Ok(None);
        }
        let length = self.buffer.first_chunk().copied().unwrap_or_default();
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(WireError::TooLarge {
                bytes,
                most: MAX_FRAME_BYTES,
            });
        }
        Ok(Some(bytes))
    }

    /// Receives the available bytes, and blocks until there are some.
    pub(super) fn fill(&mut self, socket: &KeptSocket) -> Result<(), WireError> {
        let wanted = self.length()?.map_or(0, |bytes| LENGTH_BYTES + bytes);
        if self.buffer.len() < wanted.max(SMALL_BYTES) {
            self.buffer.resize(wanted.max(SMALL_BYTES), 0);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut self.buffer[self.filled..])];
        let came = loop {
            let stream = socket.stream().map_err(WireError::io)?;
            match recvmsg(stream, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                came => break came.map_err(WireError::io)?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        // One descriptor may wait for the rest of its frame, and that of the next frame may arrive
        // with the same bytes.
        if came.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > 2 {
            return Err(WireError::Descriptors);
        }
        match came.bytes {
            0 if self.filled == 0 => Err(WireError::Ended),
            0 => Err(WireError::Cut),
            bytes => {
                self.filled += bytes;
                Ok(())
            }
        }
    }
}

/// Waits until one of these descriptors is readable or has ended, at most until `until`. Returns
/// which.
pub(super) fn wait_for<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // A time that cannot be represented is longer than any process lives.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn pair() -> (KeptSocket, KeptSocket) {
        let (here, there) = UnixStream::pair().unwrap();
        (
            KeptSocket::new(here).unwrap(),
            KeptSocket::new(there).unwrap(),
        )
    }

    fn read(socket: &KeptSocket) -> Result<Received<String>, WireError> {
        let read = Reader::default().read(socket, Some(Instant::now() + Duration::from_secs(60)));
        read.map(|frame| frame.expect("it came"))
    }

    #[test]
    fn frames_come_one_by_one_with_what_they_carry() {
        let (here, there) = pair();
        let (small, large) = (vec![7; 1000], vec![9; MAX_INLINE_BYTES + 1]);
        let mut scratch = Vec::new();
        for payload in [&small, &large, &small] {
            let payload = [&payload[..]];
            let carried = Carried::of(&payload).unwrap();
            write(&here, &mut scratch, 5, &"what", &carried).unwrap();
        }
        let mut reader = Reader::default();
        for payload in [small.clone(), large, small] {
            let frame = reader.read::<String>(&there, None).unwrap().unwrap();
            assert_eq!((frame.id, &frame.what[..]), (5, "what"));
            assert!(frame.payload.into_bytes(1 << 20).unwrap() == payload);
        }
        drop(here);
        let end = reader.read::<String>(&there, None);
        assert_eq!(end.unwrap_err(), WireError::Ended);
    }

    #[test]
    fn half_a_frame_is_kept_until_the_rest_comes() {
        let (here, there) = pair();
        let mut scratch = Vec::new();
        write(&here, &mut scratch, 1, &"what", &Carried::None).unwrap();
        let mut bytes = [0; 64];
        let whole = rustix::io::read(&there, &mut bytes).unwrap();
        let mut reader = Reader::default();
        for byte in &bytes[..whole - 1] {
            here.stream().unwrap().write_all(&[*byte]).unwrap();
            let now = Some(Instant::now());
            assert!(reader.read::<String>(&there, now).unwrap().is_none());
        }
        here.stream()
            .unwrap()
            .write_all(&bytes[whole - 1..whole])
            .unwrap();
        let frame = reader.read::<String>(&there, None).unwrap().unwrap();
        assert_eq!(frame.what, "what");
        here.stream().unwrap().write_all(&bytes[..3]).unwrap();
        drop(here);
        let end = reader.read::<String>(&there, None);
        assert_eq!(end.unwrap_err(), WireError::Cut);
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_arrives() {
        let (here, there) = pair();
        for length in [MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
            here.stream()
                .unwrap()
                .write_all(&length.to_le_bytes())
                .unwrap();
            let bytes = length as usize;
            assert_eq!(
                read(&there).unwrap_err(),
                WireError::TooLarge {
                    bytes,
                    most: MAX_FRAME_BYTES,
                }
            );
        }
        let huge = vec![0; MAX_FRAME_BYTES];
        let sent = write(&here, &mut Vec::new(), 1, &"", &Carried::Inline(&[&huge]));
        assert!(matches!(sent, Err(WireError::TooLarge { .. })), "{sent:?}");
    }

    #[test]
    fn nonsense_is_an_error() {
        for garbage in [
            &b"\x01\0\0\0\x09"[..],
            b"\x03\0\0\0\x01\xff\xff",
            b"\0\0\0\0",
        ] {
            let (here, there) = pair();
            here.stream().unwrap().write_all(garbage).unwrap();
            let refused = read(&there);
            assert!(
                matches!(refused, Err(WireError::Nonsense(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn an_announced_payload_must_be_present() {
        let (here, there) = pair();
        let sealed = Body::Sealed { bytes: 3 };
        let envelope = Envelope {
            id: 1,
            body: sealed,
            what: "what",
        };
        let bytes = codec::encode(&envelope).unwrap();
        let length = (bytes.len() as u32).to_le_bytes();
        here.stream()
            .unwrap()
            .write_all(&[&length[..], &bytes].concat())
            .unwrap();
        assert_eq!(read(&there).unwrap_err(), WireError::NoDescriptor);
    }

    #[test]
    fn unannounced_descriptors_are_an_error() {
        let (here, there) = pair();
        let sealed = Sealed::copy_of(b"abc").unwrap();
        let bytes = codec::encode(&Envelope {
            id: 1,
            body: Body::None,
            what: "what",
        });
        let bytes = bytes.unwrap();
        let length = (bytes.len() as u32).to_le_bytes();
        let mut slices = [IoSlice::new(&length), IoSlice::new(&bytes)];
        send_all(&here, &mut slices, Some(sealed.as_fd())).unwrap();
        assert_eq!(read(&there).unwrap_err(), WireError::Descriptors);
    }

    #[test]
    fn a_socket_that_took_the_number_of_ours_gets_no_frame_and_loses_no_byte() {
        let ((here, _there), (other, its_peer)) = (pair(), pair());
        let number = here.stream().unwrap().as_raw_fd();
        // SAFETY: takes only numbers. The test checks that `here` relies on its number.
        let taken = unsafe { libc::dup2(other.as_fd().as_raw_fd(), number) };
        assert_eq!(taken, number);
        write(&its_peer, &mut Vec::new(), 1, &"theirs", &Carried::None).unwrap();
        let error = write(&here, &mut Vec::new(), 1, &"ours", &Carried::None).unwrap_err();
        assert!(error.to_string().contains("closed descriptor"), "{error}");
        let error = read(&here).unwrap_err();
        assert!(error.to_string().contains(&number.to_string()), "{error}");
        assert_eq!(read(&other).unwrap().what, "theirs");
        drop(here);
        // SAFETY: queries the flags of a number, which is valid for any number.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        assert!(flags >= 0);
        // SAFETY: the number is the other socket's second descriptor, which the test owns.
        unsafe { libc::close(number) };
    }
}
