"""Codecs that turn objects into messages: bytes, pickle, JSON and MessagePack.

The name of a queue's encoding is kept with the queue, so every process uses the same one, and a
Rust program reads what a Python program sends.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import io
import json
import pickle
import struct
import types
import typing
from collections import ChainMap
from typing import Any

from . import _ipc
from .errors import CodecDiffers, DecodeError, EncodeError, PickleRefused

Parts = list["bytes | memoryview"]

# Buffers below this size are pickled in place: finding them again costs more than copying them.
_OUT_OF_BAND_FROM = 16 << 10
_ALIGNMENT = 64
# The first byte of a pickle of protocol 2 or later is 0x80.
_FRAMED = b"\0ipcbuf\1"
# In bytes. A queue has 32 KiB for it and the name of the encoding.
_MOST_TYPE_NAME = 32_000
_PLAIN_TYPES = frozenset({str, bytes, int, float, bool, type(None)})


class Codec:
    """Turns objects into bytes and back."""

    name: str
    """The name of the encoding: `bytes`, `pickle`, `json` or `msgpack`."""
    payload: str
    """Return the name that a queue of such messages stores."""

    def encode(self, value: Any) -> bytes | Parts:
        """Return the bytes of `value`, in one piece or in a list of several."""
        raise NotImplementedError

    def decode(self, message: Any) -> Any:
        """Return the object whose bytes `message` exports."""
        raise NotImplementedError


class BytesCodec(Codec):
    """Plain bytes: anything that exports a contiguous buffer."""

    name = "bytes"

    def __init__(self, payload: str = "") -> None:
        self.payload = payload

    def encode(self, value: Any) -> Any:
        if type(value) is bytes:
            return value
        try:
            return memoryview(value).cast("B")
        except TypeError as error:
            raise EncodeError(f"this queue carries bytes: {error}") from error

    def decode(self, message: Any) -> bytes:
        return bytes(message)


class _Pickler(pickle.Pickler):
    """Pickles what `multiprocessing` can send, such as connections."""

    dispatch_table: Any

    def __init__(self, file: io.BytesIO, buffers: Any) -> None:
        from multiprocessing.reduction import ForkingPickler

        super().__init__(file, 5, buffer_callback=buffers)
        extra = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
        self.dispatch_table = ChainMap(extra, copyreg.dispatch_table)


class PickleCodec(Codec):
    """Any Python object. Large buffers, such as arrays, are copied once, into the queue."""

    name = "pickle"
    payload = "pickle"

    def __init__(self, *, for_multiprocessing: bool = False) -> None:
        self._for_multiprocessing = for_multiprocessing

    def encode(self, value: Any) -> bytes | Parts:
        if type(value) in _PLAIN_TYPES:
            return pickle.dumps(value, 5)
        buffers: list[memoryview] = []

        def keep(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < _OUT_OF_BAND_FROM:
                return True
            buffers.append(raw)
            return False

        if self._for_multiprocessing:
            file = io.BytesIO()
            _Pickler(file, keep).dump(value)
            body = file.getvalue()
        else:
            body = pickle.dumps(value, 5, buffer_callback=keep)
        return _framed(body, buffers) if buffers else body

    def decode(self, message: Any) -> Any:
        # A pickle begins with 0x80.
        if type(message) is bytes and message[:1] != b"\0":
            return pickle.loads(message)
        with memoryview(message) as view:
            return _unframed(view) if view.nbytes and view[0] == 0 else pickle.loads(view)


def _framed(body: bytes, buffers: list[memoryview]) -> Parts:
    """Lay out a pickle and its buffers: a mark, sizes, the pickle, the aligned buffers."""
    sizes = [len(body), *(buffer.nbytes for buffer in buffers)]
    head = _FRAMED + struct.pack(f"<Q{len(sizes)}Q", len(buffers), *sizes)
    parts: Parts = [head, body]
    length = len(head) + len(body)
    for buffer in buffers:
        padding = -length % _ALIGNMENT
        parts += [bytes(padding), buffer]
        length += padding + buffer.nbytes
    return parts


def _unframed(view: memoryview) -> Any:
    """Load a pickle with buffers. The buffers are copies, and writable."""
    try:
        if view[: len(_FRAMED)] != _FRAMED:
            raise ValueError("this is neither a pickle nor a pickle with buffers")
        at = len(_FRAMED)
        (count,) = struct.unpack_from("<Q", view, at)
        if count * 8 > len(view):
            raise ValueError(f"{count} buffers do not fit into {len(view)} bytes")
        sizes = struct.unpack_from(f"<{count + 1}Q", view, at + 8)
        at += 8 * (count + 2)
        body = view[at : at + sizes[0]]
        at += sizes[0]
        buffers = []
        for size in sizes[1:]:
            at += -at % _ALIGNMENT
            if at + size > len(view):
                raise ValueError(f"a buffer of {size} bytes does not fit")
            buffers.append(bytearray(view[at : at + size]))
            at += size
    except (ValueError, struct.error) as error:
        raise DecodeError(str(error)) from error
    return pickle.loads(body, buffers=buffers)


class _Structured(Codec):
    """Plain values and records as JSON or MessagePack, which a Rust program can read."""

    def __init__(self, type_: Any, type_name: str | None) -> None:
        self._type = type_
        name = type_name or getattr(type_, "__name__", None) or "Any"
        self.payload = f"{self.name}:{name}"

    def _dumps(self, value: Any) -> bytes:
        raise NotImplementedError

    def _loads(self, message: Any) -> Any:
        raise NotImplementedError

    def encode(self, value: Any) -> bytes:
        try:
            return self._dumps(value)
        except (TypeError, ValueError, BufferError, OverflowError, RecursionError) as error:
            raise EncodeError(
                f"{type(value).__name__} can't be sent as {self.name}: {error}"
            ) from (error)

    def decode(self, message: Any) -> Any:
        if len(message) == 0:
            return None
        try:
            return to_type(self._loads(message), self._type)
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise DecodeError(f"the message is not {self.payload}: {error}") from error


class JsonCodec(_Structured):
    """JSON, in the form of the Rust encoding `json`."""

    name = "json"

    def _dumps(self, value: Any) -> bytes:
        text = json.dumps(
            value,
            default=to_plain,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        return text.encode()

    def _loads(self, message: Any) -> Any:
        return json.loads(bytes(message))


class MessagePackCodec(_Structured):
    """MessagePack, in the form of the Rust encoding `msgpack`: records are maps."""

    name = "msgpack"

    def _dumps(self, value: Any) -> bytes:
        return _ipc.pack(value, to_plain)

    def _loads(self, message: Any) -> Any:
        return _ipc.unpack(message)


def to_plain(value: Any) -> Any:
    """Return a dataclass, a `msgspec.Struct` or a pydantic model as a dictionary."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    fields = getattr(type(value), "__struct_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} is neither a plain value nor a record")


def to_type(value: Any, wanted: Any) -> Any:
    """Return a plain value as a record of the type `wanted`. Fields that it lacks are ignored."""
    if wanted is None or wanted is Any or value is None:
        return value
    if hasattr(wanted, "__struct_fields__"):
        import msgspec

        return msgspec.convert(value, wanted)
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, dict):
            raise TypeError(f"{wanted} is wanted, and {type(value).__name__} came")
        hints = typing.get_type_hints(wanted)
        known = {field.name for field in dataclasses.fields(wanted) if field.init}
        given = {name: to_type(item, hints[name]) for name, item in value.items() if name in known}
        return wanted(**given)  # type: ignore[operator]
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is list and isinstance(value, list):
        return [to_type(item, arguments[0]) for item in value]
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is dict and isinstance(value, dict):
        return {key: to_type(item, arguments[1]) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        records = [kind for kind in arguments if kind is not type(None)]
        return to_type(value, records[0]) if len(records) == 1 else value
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return wanted(value)
    return value


def named(name: str, type_: Any = None, type_name: str | None = None) -> Codec:
    """Return the codec with this name."""
    if type_name is not None:
        _check_type_name(type_name)
    if name == "bytes":
        return BytesCodec(type_name or "")
    if name == "pickle":
        return PickleCodec()
    if name == "json":
        return JsonCodec(type_, type_name)
    if name == "msgpack":
        return MessagePackCodec(type_, type_name)
    raise ValueError(f'no codec {name!r}: "bytes", "pickle", "json" or "msgpack"')


def _check_type_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"type_name is a str, not {type(name).__name__}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"type_name {name!r:.80} is not Unicode: {error}") from None
    if length > _MOST_TYPE_NAME:
        raise ValueError(f"type_name has {length} bytes: at most {_MOST_TYPE_NAME}")


def refuse_pickle(address: str, codec: Codec | str | None) -> None:
    """Raise if messages from other machines would be unpickled."""
    is_pickle = isinstance(codec, PickleCodec) or (isinstance(codec, str) and codec == "pickle")
    if is_pickle and is_far(address):
        raise PickleRefused(
            f"queue {address!r} would carry pickles, and anyone who can reach the server could run "
            'code here: use codec="msgpack" or "json", or pass allow_pickle=True'
        )


def is_far(address: str) -> bool:
    """Return whether processes of other machines may use the queue."""
    if not isinstance(address, str):
        raise TypeError(f"an address is a str, not {type(address).__name__}")
    return address.partition(":")[0] not in ("shm", "local", "unix")


def of_queue(address: str, found: str, wanted: Codec | None, type_: Any) -> Codec:
    """Return the codec of a queue that stores the name `found`, if it is the wanted one."""
    name, colon, type_name = found.partition(":")
    if found == "pickle":
        codec: Codec = PickleCodec()
    elif colon and name in ("json", "msgpack"):
        codec = named(name, type_, type_name)
    elif colon and name == "postcard":
        raise CodecDiffers(
            f"queue {address!r} carries {found.partition('=')[0]!r}, which only a Rust program "
            "with that type can read: create the queue with Encoding::MessagePack or Encoding::Json"
        )
    else:
        codec = BytesCodec(found)
    if wanted is None:
        return codec
    is_typed = isinstance(wanted, _Structured) and not wanted.payload.endswith(":Any")
    same_type = not is_typed or wanted.payload == codec.payload
    if wanted.name != codec.name or not same_type:
        carries, asked = found or "plain bytes", wanted.payload or "plain bytes"
        raise CodecDiffers(f"queue {address!r} carries {carries}, this program wants {asked}")
    return wanted if isinstance(wanted, PickleCodec) else codec
