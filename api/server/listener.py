"""The listening socket, and what share of its connections each worker takes."""

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Self

from api.config import ConfigError, Settings

BACKLOG = 1024
SO_ATTACH_FILTER = 26  # Linux's; Python has no name for it
# the first descriptor that systemd's socket activation hands over (see sd_listen_fds)
HANDED_OVER = 3
# so long a worker leaves a connection to the others before it looks again, and so often
YIELD_S = 0.001
YIELDS = 200
# to one that gave no sign of life in this time, none is left; a sign comes every few milliseconds
SILENCE_S = 0.5
# with so many times the connections of another, a worker has more; 9 and 8 are as good as equal
MORE = 1.125


@dataclass
class Share:
    """A worker's share of the connections that come to the listening socket of all.

    Workers that race for them leave all that a client opens at once at one of them. So a worker
    leaves them to the others while it has more than one of them, but not for long: whoever is busy
    or stuck does not keep them waiting.

    Attributes:
        listener: The listening socket.
        counts: How many connections each worker has, in memory that all of them share.
        beats: When each gave a sign of life, by time.monotonic(), in such memory as well.
        place: Where this worker's number is in there.
    """

    listener: socket.socket
    counts: memoryview
    beats: memoryview
    place: int
    _yields: int = 0

    @classmethod
    def whole(cls, listener: socket.socket) -> Self:
        """Return the share of a worker that has no others beside it."""
        counts, beats = (memoryview(bytearray(8)).cast(kind) for kind in 'qd')
        return cls(listener, counts, beats, 0)

    def has(self, count: int) -> None:
        """Tell the other workers how many connections this one has."""
        self.counts[self.place] = count

    def yields(self) -> bool:
        """Tell whether to leave a connection that is there to another worker, for YIELD_S."""
        begin = monotonic() - SILENCE_S
        own = self.counts[self.place]
        others = zip(self.counts, self.beats, strict=True)
        if any(count * MORE < own and beat > begin for count, beat in others):
            self._yields += 1
        else:
            self._yields = 0
        return 0 < self._yields <= YIELDS

    def has_ended(self) -> None:
        """Say that there is none any more."""
        self._yields = 0


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket, or take the one that this process was started with.

    systemd's socket activation can pass one.

    Raises:
        ConfigError: The address cannot be had, or the socket that was passed is not TCP.
    """
    if os.environ.get('LISTEN_PID') == str(os.getpid()):
        listener = socket.socket(fileno=HANDED_OVER)
        if listener.family == socket.AF_UNIX:
            raise ConfigError('cannot serve on a Unix socket, only on TCP')
    else:
        listener = open_listener(settings)
    if hasattr(socket, 'TCP_USER_TIMEOUT'):  # of every connection: none to read an answer
        timeout_ms = settings.client_timeout_s * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listener


def keep_out(listener: socket.socket) -> None:
    """Let nobody connect any more, while those who have are taken in.

    Who came between the last look and the close would be reset. A filter that keeps no byte of
    what comes to the socket makes the kernel silent instead, so a client tries again a second later
    (RFC 6298), when the address is another server's, or refused.
    """
    if 'LISTEN_PID' in os.environ:  # who passed it keeps it, and who comes, for the next process
        return
    if sys.platform == 'linux':  # struct sock_filter, and sock_fprog with one of it: see socket(7)
        keep_nothing = ctypes.create_string_buffer(struct.pack('HBBI', 0x06, 0, 0, 0))
        program = struct.pack('HP', 1, ctypes.addressof(keep_nothing))
        with suppress(OSError):  # not every system lets every user
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def url_of(listener: socket.socket) -> str:
    """Return where a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def open_listener(settings: Settings) -> socket.socket:
    """Listen on the configured address; see listen."""
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ':' in settings.host else socket.AF_INET,
            backlog=BACKLOG,
            reuse_port=settings.reuse_port,
        )
    except OSError as ex:
        reason = os.strerror(ex.errno) if (ex.errno or 0) > 0 else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}'
        ) from ex
