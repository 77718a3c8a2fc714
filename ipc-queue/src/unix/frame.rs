//! Frames: how requests and answers lie on the stream.
//!
//! ```text
//! frame = length of the rest: u32, little-endian, at most MAX_FRAME_BYTES | envelope, encoded by ipc_proto::codec | content
//! ```
//!
//! The codec's version byte comes first. What is larger than [`MAX_INLINE_BYTES`] is no content but a sealed file in
//! memory (`memfd.rs`), whose descriptor comes with the frame. A frame that is too long, of another version, or makes no
//! sense is an error, after which nothing more can be read from that stream: its end is not known.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ipc_proto::{CodecError, codec};
use ipc_shm::KeptSocket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::memfd::Sealed;

/// The largest payload that travels in a frame.
pub(super) const MAX_INLINE_BYTES: usize = 64 << 10;
/// The largest frame.
pub(super) const MAX_FRAME_BYTES: usize = MAX_INLINE_BYTES + (16 << 10);
const LENGTH_BYTES: usize = size_of::<u32>();
/// How much room there is at first; most frames are small.
const SMALL_BYTES: usize = 4 << 10;

/// What went wrong with a stream. It is of no use after that.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum WireError {
    #[error("the other side closed the connection")]
    Ended,
    #[error("the other side closed the connection in the middle of a frame")]
    Cut,
    #[error("a frame of {bytes} bytes is larger than the {MAX_FRAME_BYTES} that are allowed")]
    TooLarge { bytes: usize },
    #[error("a frame makes no sense: {0}")]
    Nonsense(#[from] CodecError),
    #[error("{bytes} bytes follow a frame that has no content")]
    Trailing { bytes: usize },
    #[error("a frame announces a payload in memory and brings none")]
    NoDescriptor,
    #[error("more descriptors came than were announced")]
    Descriptors,
    #[error("a payload in memory is not sealed against writing and shrinking")]
    NotSealed,
    #[error("a payload in memory is said to have {bytes} bytes and has {found}")]
    WrongSize { bytes: u64, found: u64 },
    #[error("a request that makes no sense here: {0}")]
    Unasked(&'static str),
    #[error("{0}")]
    Io(String),
}

/// What each frame begins with.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    /// Which request it is, or answers. 0: neither.
    id: u32,
    body: Body,
    what: T,
}

/// Where the payload is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Body {
    None,
    /// The rest of the frame.
    Inline,
    /// In the descriptor that comes along.
    Sealed {
        bytes: u64,
    },
}

/// A frame that came.
#[derive(Debug)]
pub(super) struct Received<T> {
    pub(super) id: u32,
    pub(super) what: T,
    pub(super) payload: Payload,
}

/// A payload that came.
#[derive(Debug)]
pub(super) enum Payload {
    Inline(Vec<u8>),
    Sealed(Sealed),
}

/// A payload that is to go.
#[derive(Debug)]
pub(super) enum Carried<'a> {
    None,
    /// One after the other.
    Inline(&'a [&'a [u8]]),
    Sealed(Sealed),
}

/// Reads frames; keeps what came of the next one.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// How much of the buffer was received and not taken yet.
    filled: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl WireError {
    pub(super) fn io(error: impl Into<io::Error>) -> Self {
        let error = error.into();
        match error.kind() {
            // Who is killed with something unread resets.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Ended,
            _ => Self::Io(error.to_string()),
        }
    }
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Sealed(sealed) => usize::try_from(sealed.bytes()).unwrap_or(usize::MAX),
        }
    }

    /// Copies it; `into` is as long as it is.
    pub(super) fn copy_to(&self, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Inline(bytes) => into.copy_from_slice(bytes),
            Self::Sealed(sealed) => sealed.read(into)?,
        }
        Ok(())
    }

    /// As bytes of our own, at most `most`.
    pub(super) fn into_bytes(self, most: usize) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Inline(bytes) => Ok(bytes),
            Self::Sealed(sealed) => {
                let len = usize::try_from(sealed.bytes()).unwrap_or(usize::MAX);
                if len > most {
                    return Err(WireError::TooLarge { bytes: len });
                }
                let mut bytes = vec![0; len];
                sealed.read(&mut bytes).map_err(WireError::io)?;
                Ok(bytes)
            }
        }
    }
}

impl<'a> Carried<'a> {
    /// `payload`, in the frame or beside it.
    pub(super) fn of(payload: &'a [&'a [u8]; 1]) -> io::Result<Self> {
        if payload[0].len() <= MAX_INLINE_BYTES {
            Ok(Self::Inline(payload))
        } else {
            Ok(Self::Sealed(Sealed::copy_of(payload[0])?))
        }
    }
}

/// Writes a first frame: without an envelope, so that every version can read its beginning.
pub(super) fn write_raw<T: Serialize>(socket: &KeptSocket, what: &T) -> Result<(), WireError> {
    let bytes = codec::encode(what)?;
    let length = (bytes.len() as u32).to_le_bytes();
    let mut slices = [IoSlice::new(&length), IoSlice::new(&bytes)];
    send_all(socket, &mut slices, None)
}

/// Writes a frame, blocking until the other side took it, or at least the kernel. `scratch` is only room.
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
        return Err(WireError::TooLarge { bytes });
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

/// Something that nobody expects.
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
    /// The kernel takes no more at once.
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
                // It goes with the first byte.
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
    /// The next frame. `None`: it did not come in time; what came of it is kept.
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

    /// The next frame as it is, which carries nothing: for the first one, which another version may have written.
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

    /// The next frame, if the whole of it came.
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

    /// How long the next frame is, if that came.
    fn length(&self) -> Result<Option<usize>, WireError> {
        if self.filled < LENGTH_BYTES {
            return Ok(None);
        }
        let length = self.buffer.first_chunk().copied().unwrap_or_default();
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > MAX_FRAME_BYTES {
            return Err(WireError::TooLarge { bytes });
        }
        Ok(Some(bytes))
    }

    /// Receives what there is, blocking until there is something.
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
        // One frame's may wait for the rest of it, and the next one's come with the same bytes.
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

/// Waits until one of these can be read, or has ended, at most until then; which.
pub(super) fn wait_for<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // A time that can't be said is longer than anybody lives.
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
    fn what_is_too_long_is_refused_before_it_comes() {
        let (here, there) = pair();
        for length in [MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
            here.stream()
                .unwrap()
                .write_all(&length.to_le_bytes())
                .unwrap();
            let bytes = length as usize;
            assert_eq!(read(&there).unwrap_err(), WireError::TooLarge { bytes });
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
    fn a_payload_that_was_announced_must_be_there() {
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
    fn descriptors_that_nobody_announced_are_an_error() {
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
        // SAFETY: takes a number. That `here` relies on it is what is tested.
        let taken = unsafe { libc::dup2(other.as_fd().as_raw_fd(), number) };
        assert_eq!(taken, number);
        write(&its_peer, &mut Vec::new(), 1, &"theirs", &Carried::None).unwrap();
        let error = write(&here, &mut Vec::new(), 1, &"ours", &Carried::None).unwrap_err();
        assert!(error.to_string().contains("closed descriptor"), "{error}");
        let error = read(&here).unwrap_err();
        assert!(error.to_string().contains(&number.to_string()), "{error}");
        assert_eq!(read(&other).unwrap().what, "theirs");
        drop(here);
        // SAFETY: asks for a number's flags: it was not closed.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        assert!(flags >= 0);
        // SAFETY: the number is the other socket's second one.
        unsafe { libc::close(number) };
    }
}
