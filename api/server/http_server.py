"""waitress's server as a worker runs it; with `channel`, all that touches its private parts."""

import logging
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from api.config import Settings
from api.server.channel import Channel
from api.server.crew import Crew
from api.server.listener import YIELD_S, Share
from api.server.process import core_count
from api.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# no request here needs much; a longer one is refused before it is read
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
CONNECTION_LIMIT = 2000
# of an answer in memory, what has been read is given back piece by piece
OUTBUF_BYTES = 64 * 1024
# connections that are taken in before those that are there already are looked at
ACCEPTED_AT_ONCE = 16
# without a free descriptor, nothing else can be done than to wait for one
ACCEPT_PAUSE_S = 0.5
# a client that keeps its connection has this long for one more request when a worker ends; the
# answer tells it to connect anew
LINGER_S = 1.0


class Watched(dict):
    """What waitress's loop looks after, by descriptor, and what the system watches of it.

    waitress asks every object before every turn whether it wants to read or write, and hands all
    their descriptors to poll. Here the system (epoll, kqueue) keeps them, and `look_at` is called
    where what an object wants may have changed, so idle connections cost nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector = selectors.DefaultSelector()
        self._wanted: dict[int, int] = {}

    def __delitem__(self, descriptor: int) -> None:
        super().__delitem__(descriptor)
        if self._wanted.pop(descriptor, 0):
            self._selector.unregister(descriptor)

    def look_at(self, thing: wasyncore.dispatcher) -> int:
        """Watch for what an object wants now, and return that."""
        if not self.holds(thing):
            return 0
        descriptor = thing._fileno
        wanted = selectors.EVENT_READ if thing.readable() else 0
        if thing.writable():
            wanted |= selectors.EVENT_WRITE
        before = self._wanted.get(descriptor, 0)
        if wanted == before:
            return wanted
        if not before:
            self._selector.register(descriptor, wanted, thing)
        elif not wanted:
            self._selector.unregister(descriptor)
        else:
            self._selector.modify(descriptor, wanted, thing)
        self._wanted[descriptor] = wanted
        return wanted

    def holds(self, thing: wasyncore.dispatcher) -> bool:
        """Tell whether an object is still open."""
        return self.get(thing._fileno) is thing

    def wait(self, timeout_s: float) -> list[tuple[wasyncore.dispatcher, int]]:
        """Return the objects that can be read from or written to, and which of it."""
        return [(key.data, events) for key, events in self._selector.select(timeout_s)]


class HttpServer(TcpWSGIServer):
    """A server on a listening socket that other processes share.

    Args:
        application: The WSGI application.
        share: The listening socket, and what to take from it.
        crew: The threads that run it.
        settings: How long to wait for clients.
        metrics: Where the channels count what never comes to the application.
    """

    channel_class = Channel

    def __init__(
        self,
        application: Callable,
        share: Share,
        crew: Crew,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self._share = share
        self._crew = crew
        workers = settings.workers or core_count()
        self._unread_limit_bytes = settings.unread_limit_mb * 1_000_000 // workers
        self._changed: deque[wasyncore.dispatcher] = deque()
        self._accepts_from = 0.0
        self._full_until = 0.0
        self._is_stopping = False
        adjustments = Adjustments(
            ident=None,
            clear_untrusted_proxy_headers=False,
            connection_limit=CONNECTION_LIMIT,
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
            channel_timeout=settings.client_timeout_s,
            cleanup_interval=min(settings.client_timeout_s, 30),
            # what a client does not read yet is kept in memory, in pieces, and never in a file,
            # since disks are full at times; limit_unread bounds it
            outbuf_high_watermark=OUTBUF_BYTES,
            outbuf_overflow=sys.maxsize,
        )
        listener = share.listener
        super().__init__(
            application,
            map=Watched(),
            _sock=listener,
            dispatcher=crew,
            adj=adjustments,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )
        self._changed.append(self.trigger)

    def run_once(self, timeout_s: float) -> None:
        """Do what there is to do, or wait for it."""
        self._count_connections()
        # before the look, lest the pause ends between the two and nothing ends the wait
        pause_s = self._accepts_from - time.monotonic()
        accepts = self._map.look_at(self)
        while self._changed:
            thing = self._changed.popleft()
            if getattr(thing, 'will_close', False):  # who reads nothing is never ready to write to
                thing.handle_close()
            self._map.look_at(thing)
        ready = self._map.wait(min(timeout_s, pause_s) if pause_s > 0 else timeout_s)
        if accepts and all(thing is not self for thing, _ in ready):
            self._share.has_ended()
        for thing, events in ready:
            if not self._map.holds(thing):  # closed by what came before
                continue
            is_readable = thing.readable()
            if events & selectors.EVENT_READ and is_readable:
                wasyncore.read(thing)
            if events & selectors.EVENT_WRITE and self._map.holds(thing):
                wasyncore.write(thing)
            # a client that has sent its request and waits for the answer will not be heard of
            # before that, so it is watched on; it is not if it does send more
            if events & selectors.EVENT_WRITE or not is_readable or thing.writable():
                self._map.look_at(thing)

    def has_changed(self, channel: Channel) -> None:
        """Let the loop ask a channel anew what it wants (called by any thread)."""
        self._changed.append(channel)
        self.wake()

    def wake(self) -> None:
        """Wake the thread in the loop; one that comes later sees what has changed by itself."""
        if self._crew.is_led():
            self.trigger.pull_trigger()

    def pull_trigger(self) -> None:
        """Do nothing: waitress would wake the loop to ask everybody, and has_changed tells it."""

    def maintenance(self, now: float) -> None:
        """Close connections that nothing has come from for long (called by waitress)."""
        super().maintenance(now)
        self._changed.extend(c for c in self.active_channels.values() if c.will_close)

    def readable(self) -> bool:
        """Tell whether to take in connections now (called by waitress)."""
        return super().readable() and time.monotonic() >= self._accepts_from

    def handle_accept(self) -> None:
        """Take in who has connected (called by waitress, whose own takes in one)."""
        for _ in range(min(ACCEPTED_AT_ONCE, CONNECTION_LIMIT - len(self._map))):
            self._count_connections()
            if not self._is_stopping and self._share.yields():
                self._accepts_from = time.monotonic() + YIELD_S
                return
            try:
                connection, address = self.socket.accept()
            except (BlockingIOError, ConnectionError):  # another worker was first, or it is gone
                return
            except OSError as ex:
                log.warning('cannot take in connections: %s', ex.strerror)
                self._accepts_from = self._full_until = time.monotonic() + ACCEPT_PAUSE_S
                return
            self.set_socket_options(connection)
            self._changed.append(self.channel_class(self, connection, address, self.adj, self._map))

    def _count_connections(self) -> None:
        takes_none = self._is_stopping or time.monotonic() < self._full_until
        self._share.has(CONNECTION_LIMIT if takes_none else len(self.active_channels))

    @property
    def is_listening(self) -> bool:
        """Whether new connections are taken in."""
        return self.accepting

    def stop_listening(self) -> None:
        """Take in who has connected so far, and nobody after that."""
        self.trigger.pull_trigger(self._stop_listening)

    def _stop_listening(self) -> None:
        if self.accepting:
            self._is_stopping, before = True, -1
            while before < len(self._map):
                before = len(self._map)
                self.handle_accept()
            wasyncore.dispatcher.close(self)  # and not the trigger, which the loop still needs

    def in_progress(self) -> int:
        """Return how many clients wait for an answer."""
        return sum(bool(channel.requests) for channel in list(self.active_channels.values()))

    def is_busy(self) -> bool:
        """Tell whether somebody waits for an answer, or may be about to ask for one."""
        now = time.time()
        return any(
            channel.requests or channel.total_outbufs_len or now - channel.last_activity < LINGER_S
            for channel in list(self.active_channels.values())
        )

    def limit_unread(self) -> None:
        """Disconnect those who leave most unread, while all together leave too much."""
        unread = {c: c.total_outbufs_len for c in list(self.active_channels.values())}
        total = sum(unread.values())
        for channel in sorted(unread, key=unread.get, reverse=True):
            if total <= self._unread_limit_bytes:
                break
            total -= unread[channel]
            log.warning('a client that leaves too much unread is disconnected')
            channel.will_close = True
            self.has_changed(channel)
