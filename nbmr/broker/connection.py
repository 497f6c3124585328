"""pika's connection, with fewer copies of large messages.

pika's own code copies every byte of a body three times on its way out and five times on its way in, and takes
4 KiB from the socket at a time. Partitions are megabytes, so that was most of a client's time. Here it is two
copies out and two in. What is overridden is private to pika: hence the bound on its version.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pika
from pika import frame, spec
from pika.adapters.utils import io_services_utils

#: A frame's head: type, channel, size of what follows (AMQP 0-9-1, section 4.2.3).
_HEAD = struct.Struct(">BHL")
_END = bytes([spec.FRAME_END])
_HEAD_AND_END = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE

# pika takes 4 KiB from the socket at a time, which makes 32 pieces of a frame.
_transport = io_services_utils._AsyncTransportBase  # noqa: SLF001 - there is no public setting
_transport._MAX_RECV_BYTES = 256 << 10  # noqa: SLF001
_transport._MAX_CONSUME_BYTES = 2 << 20  # noqa: SLF001
_Plain = io_services_utils._AsyncPlaintextTransport  # noqa: SLF001


class Connection(pika.SelectConnection):  # type: ignore[misc]  # pika's types are not looked at
    """A connection that publishes bodies in pieces, and copies what arrives into place at once."""

    #: What has arrived of a frame that isn't a body.
    _frame_buffer: bytes
    #: The channel of the body frame that is arriving, and how many of its bytes are missing; its end isn't
    #: counted, and -1 is between frames.
    _body_channel = 0
    _body_missing = -1

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> Any:
        channel = super()._create_channel(channel_number, on_open_callback)
        channel._content_assembler = _Assembler()  # noqa: SLF001 - pika's, like all that is overridden here
        return channel

    def publish(
        self,
        channel: Any,
        exchange: str,
        key: str,
        properties: pika.BasicProperties,
        body: list[bytes],
    ) -> None:
        """Publish a message whose body is in pieces; it is mandatory: returned if no queue wants it."""
        body = [piece for piece in body if piece]
        most = self._body_max_length
        if any(len(piece) > most for piece in body):  # a server with smaller frames
            body = [piece[i : i + most] for piece in body for i in range(0, len(piece), most)]
        number = channel.channel_number
        method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
        frames = [
            frame.Method(number, method).marshal(),
            frame.Header(number, sum(map(len, body)), properties).marshal(),
            *(b"".join((_HEAD.pack(spec.FRAME_BODY, number, len(piece)), piece, _END)) for piece in body),
        ]
        if len(body) == 1:
            frames = [b"".join(frames)]  # one call of send()
        self._output_marshaled_frames(frames)

    def _adapter_emit_data(self, data: bytes) -> None:
        """Send at once what the socket takes: pika would wait until its loop says that it can be written."""
        transport: Any = self._transport
        if type(transport) is _Plain and not transport.get_write_buffer_size():
            with contextlib.suppress(OSError, AttributeError):  # it is full, broken or closed: pika finds out
                data = data[transport._sock.send(data) :]  # noqa: SLF001
        if data:
            transport.write(data)

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)
        data = memoryview(self._frame_buffer + data_in if self._frame_buffer else data_in)
        self._frame_buffer = b""  # what is called from here may look at it
        while data:
            if self._body_missing > 0:
                piece, data = data[: self._body_missing], data[self._body_missing :]
                self._body_missing -= len(piece)
                self._process_frame(frame.Body(self._body_channel, piece))
            elif self._body_missing == 0:
                if data[0] != spec.FRAME_END:
                    raise pika.exceptions.InvalidFrameError("Invalid FRAME_END marker")
                self._body_missing, data = -1, data[1:]
            elif not (used := self._begin_frame(data)):
                self._frame_buffer = bytes(data)
                return
            else:
                data = data[used:]

    def _begin_frame(self, data: memoryview) -> int:
        """Begin with a body, or process another frame; return the bytes that took, 0 if there are too few."""
        if len(data) < _HEAD.size:
            return 0
        kind, channel, length = _HEAD.unpack_from(data)
        if kind == spec.FRAME_BODY:
            self._body_channel, self._body_missing = channel, length
            return _HEAD.size
        size: int = length + _HEAD_AND_END
        if len(data) < size:
            return 0
        whole = bytes(data[:size])
        self._process_frame(_header(whole) if kind == spec.FRAME_HEADER else frame.decode_frame(whole)[1])
        return size


class _Assembler:
    """Puts a message together: the pieces of its body are copied into place as they arrive.

    Takes the place of pika's ContentFrameAssembler, which collects the pieces and joins them at the end. The
    body of a message in one piece is bytes; any other is a bytearray.
    """

    def __init__(self) -> None:
        self._method: Any = None
        self._header: Any = None
        self._body = bytearray()
        self._filled = 0

    def process(self, value: Any) -> tuple[Any, Any, bytes | bytearray] | None:
        """Take a method, a content header or a piece of a body; return the message if it is whole."""
        if isinstance(value, frame.Body):
            return self._take(value.fragment)
        if isinstance(value, frame.Header):
            self._header, self._filled = value, 0
            return None if value.body_size else (self._method, value, b"")
        if isinstance(value, frame.Method) and spec.has_content(value.method.INDEX):
            self._method = value
            return None
        raise pika.exceptions.UnexpectedFrameError(value)

    def _take(self, piece: memoryview) -> tuple[Any, Any, bytes | bytearray] | None:
        size, end = self._header.body_size, self._filled + len(piece)
        if len(piece) == size:
            return self._method, self._header, bytes(piece)
        if end > size:
            raise pika.exceptions.BodyTooLongError(end, size)
        if not self._filled:
            self._body = bytearray(size)
        self._body[self._filled : end] = piece
        self._filled = end
        if end < size:
            return None
        body, self._body = self._body, bytearray()
        return self._method, self._header, body


def _header(data: bytes) -> frame.Header:
    """Decode a message's properties; those that pika can't decode are none.

    Whoever can publish chooses them, and RabbitMQ hands them on as they are: a date of the year 10**11, say.
    """
    try:
        return frame.decode_frame(data)[1]
    except Exception:  # noqa: BLE001 - anything: pika decodes them without checking
        _, channel, _ = _HEAD.unpack_from(data)
        (size,) = struct.unpack_from(">Q", data, spec.FRAME_HEADER_SIZE + 4)
        return frame.Header(channel, size, pika.BasicProperties())
