"""waitress's server as a worker runs it; with `channel`, all that touches its private parts."""

import select
import socket
import sys
import time
from collections.abc import Callable

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from api.config import Settings
from api.server.channel import Channel
from api.server.crew import Crew
from api.telemetry.metrics import Metrics

# no request here needs much; a longer one is refused before it is read
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
CONNECTION_LIMIT = 2000
# a client that keeps its connection has this long for one more request when a worker ends; the
# answer tells it to connect anew
LINGER_S = 1.0
LOOP_TIMEOUT_S = 1.0


class HttpServer(TcpWSGIServer):
    """A server on a listening socket that other processes share.

    Args:
        application: The WSGI application.
        listener: The listening socket.
        crew: The threads that run it.
        settings: How long to wait for clients.
        metrics: Where the channels count what never comes to the application.
    """

    channel_class = Channel

    def __init__(
        self,
        application: Callable,
        listener: socket.socket,
        crew: Crew,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self._crew = crew
        adjustments = Adjustments(
            ident=None,
            connection_limit=CONNECTION_LIMIT,
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
            channel_timeout=settings.client_timeout_s,
            cleanup_interval=min(settings.client_timeout_s, 30),
            # what a client does not read yet goes into a file; the thread is not held up by it
            outbuf_high_watermark=sys.maxsize,
        )
        address = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            application,
            _sock=listener,
            dispatcher=crew,
            adj=adjustments,
            sockinfo=address,
            bind_socket=False,
        )

    def run_once(self) -> None:
        """Run the loop until something has happened, or LOOP_TIMEOUT_S are over."""
        wasyncore.loop(timeout=LOOP_TIMEOUT_S, use_poll=True, map=self._map, count=1)

    def pull_trigger(self) -> None:
        """Wake the thread in the loop; one that comes later sees what has changed by itself."""
        if self._crew.is_led():
            super().pull_trigger()

    @property
    def is_listening(self) -> bool:
        """Whether new connections are taken in."""
        return self.accepting

    def stop_listening(self) -> None:
        """Take in who has connected so far, and nobody after that."""
        self.trigger.pull_trigger(self._stop_listening)

    def _stop_listening(self) -> None:
        if self.accepting:
            self.accepting = False
            while select.select([self.socket], [], [], 0)[0]:
                self.handle_accept()
            wasyncore.dispatcher.close(self)

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
