"""The streams that jobs' logs are: those of short jobs are used again.

To make a stream and to read from it takes RabbitMQ 4 to 6 ms, to delete it 1 to 2 ms: two thirds of what
`nbmr.map` takes for a single item. So the stream of a job that `nbmr.map` has gathered is kept for some
seconds, and the next job is logged behind it. That one's id is its stream's with a number behind it, so
whoever knows a job knows its stream, and reads over what is said there of other jobs.

Only jobs that have ended well leave their streams: of any other, something might still come. A stream that is
kept is registered as one of a job without a name. It is deleted by its kernel, at the latest when that ends;
if it was killed, by a worker's janitor.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait

from nbmr import registry, topology
from nbmr.broker import Broker, Consumer, Delivery
from nbmr.errors import BrokerError
from nbmr.signing import Signer

#: Seconds for which a stream is kept, and for which a janitor leaves it alone.
KEEP_SECONDS, SPARE_SECONDS = 5.0, 20.0
#: Bytes of messages after which a stream isn't used again: who attaches to its job has to read over them.
_MOST_BYTES = 4 << 20
#: Streams that are kept at once: jobs may run in several threads.
_MOST_STREAMS = 4
#: Seconds that RabbitMQ has to store that a stream is kept.
_REGISTER_SECONDS = 1.0
#: Seconds that RabbitMQ has to delete them when the process ends.
_PATIENCE = 2.0

_open: weakref.WeakSet[LogStreams] = weakref.WeakSet()


@atexit.register
def _delete_all() -> None:
    """Leave nothing behind on the broker."""
    for streams in list(_open):
        streams.close()


class LogStream:
    """A stream as it is read for one job after another.

    Parameters
    ----------
    broker
        Where it is.
    job
        The id of the job whose log it is.
    """

    def __init__(self, broker: Broker, job: str) -> None:
        self.job, self._broker = job, broker
        #: Tells whether it is registered as a spare one, if it was another job's log: so it is there.
        self.registered: Future[bool] | None = None
        #: Why nothing more can be read.
        self.lost: BrokerError | None = None
        #: Bytes of the messages that were read.
        self.bytes = 0
        self._consumer: Consumer | None = None
        self._read: Callable[[Delivery], None] = Delivery.ack
        self._on_lost: Callable[[BrokerError], None] = lambda _error: None

    @property
    def kept(self) -> bool:
        """Whether it was another job's log."""
        return self.registered is not None

    def follow(self, read: Callable[[Delivery], None], on_lost: Callable[[BrokerError], None]) -> None:
        """Have its messages read; from the beginning, or where the job before has ended."""
        self._read, self._on_lost = read, on_lost
        if self._consumer is None:
            self._consumer = self._broker.consume(
                topology.job_log(self.job), self._take, offset="first", on_lost=self._lose
            )

    def _take(self, delivery: Delivery) -> None:
        self.bytes += len(delivery.body)
        self._read(delivery)

    def _lose(self, error: BrokerError) -> None:
        self.lost = error
        self._on_lost(error)

    def renew(self) -> None:
        """Go on to read by a new subscription."""
        if self._consumer is not None:
            self._consumer.renew()

    def rest(self) -> None:
        """Read on, for nobody."""
        self._read, self._on_lost = Delivery.ack, lambda _error: None

    def close(self) -> None:
        """Read no more."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def _stored(stream: LogStream) -> bool:
    """Whether the registration of a kept stream is stored, now or in a moment."""
    registered = stream.registered
    if registered is None or not wait([registered], _REGISTER_SECONDS).done or registered.exception():
        return False
    return registered.result()


class LogStreams:
    """The streams that one client keeps; safe to use from several threads.

    Parameters
    ----------
    broker, signer
        Where they are, and what signs their registrations.
    """

    def __init__(self, broker: Broker, signer: Signer) -> None:
        self._broker, self._signer = broker, signer
        self._lock = threading.Lock()
        #: When each was kept, by the monotonic clock, and by which generation of the connection it is read.
        self._kept: list[tuple[LogStream, float, int]] = []
        self._timer: threading.Timer | None = None

    def new(self, *, brief: bool) -> LogStream:
        """Return a stream for a new job.

        Parameters
        ----------
        brief
            Whether the job is forgotten as soon as it has ended; only then it may get one that is there.
        """
        while brief and not self._broker.trouble:
            with self._lock:
                if not self._kept:
                    break
                stream, since, generation = self._kept.pop()
            young = time.monotonic() - since < KEEP_SECONDS
            if young and not stream.lost and generation == self._broker.generation and _stored(stream):
                return stream
            self._delete(stream)
        return LogStream(self._broker, secrets.token_hex(6))

    def drop(self, stream: LogStream) -> None:
        """Delete a stream that came from `new`, and that nothing was made of."""
        if stream.kept:
            self._delete(stream)

    def keep(self, stream: LogStream) -> bool:
        """Keep the stream of a job that has ended well and is forgotten; return whether that was done."""
        with self._lock:
            if any(stream is kept for kept, *_ in self._kept):
                return True
            full = len(self._kept) >= _MOST_STREAMS
        if full or stream.lost or stream.bytes > _MOST_BYTES or self._broker.trouble:
            return False
        stream.rest()
        before, after = stream.job, topology.next_job(stream.job)
        spare = registry.registration(after, "", "", SPARE_SECONDS, spare=True, replaces=before)
        try:
            registered = registry.register(self._broker, self._signer, spare)
        except BrokerError:  # closed
            return False
        stream.job, stream.registered = after, registered  # not waited for now: only the next job needs it
        with self._lock:
            self._kept.append((stream, time.monotonic(), self._broker.generation))
            if self._timer is None:
                self._sweep_later()
        _open.add(self)
        return True

    def close(self) -> None:
        """Delete all that are kept."""
        with self._lock:
            kept, self._kept = self._kept, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for stream, *_ in kept:
            self._delete(stream)

    def _sweep_later(self) -> None:
        self._timer = threading.Timer(KEEP_SECONDS, self._sweep)
        self._timer.daemon = True
        self._timer.start()

    def _sweep(self) -> None:
        """Delete those that were kept for long."""
        with self._lock:
            self._timer = None
            now = time.monotonic()
            old = [stream for stream, since, _ in self._kept if now - since >= KEEP_SECONDS]
            self._kept = [kept for kept in self._kept if kept[0] not in old]
            if self._kept:
                self._sweep_later()
        for stream in old:
            self._delete(stream)

    def _delete(self, stream: LogStream) -> None:
        stream.close()
        with contextlib.suppress(BrokerError):  # closed: then a worker's janitor does it
            kind = "unwanted"
            if self._broker.delete(topology.job_log(stream.job), timeout=_PATIENCE):
                kind = "forgotten"
            registry.append(self._broker, self._signer, kind, job=stream.job)
