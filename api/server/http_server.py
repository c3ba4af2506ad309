"""waitress on the listening sockets of a worker: limits, balanced connections, problem documents.

This is the only module that imports private parts of waitress. `api/server/__init__.py` lists them.
"""

import re
import socket
import sys
import time
from collections.abc import Callable
from resource import RLIMIT_NOFILE, getrlimit

import falcon
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, TcpWSGIServer, UnixWSGIServer
from waitress.task import ErrorTask, WSGITask

from api.http.problems import answer_without_application
from api.server.threads import LeaderFollowers, hand_over_loop

# no request needs much; waitress refuses a longer one before it is read
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
CONNECTION_LIMIT = 2000
# a worker with more connections than another one leaves a new connection to it this often, and
# each time for so many seconds: a worker that is busy or stuck does not keep a client waiting
MAX_SKIPS = 20
SKIP_S = 0.0005
# the connection count of a slot without a worker, or whose worker accepts none
NO_WORKER = -1
# files that a worker needs beside its connections
RESERVED_FILES = 64
# seconds in which a client that keeps its connection may send one more request when a worker ends
GRACE_S = 1.0
TRANSFER_ENCODING = re.compile(rb'^transfer-encoding:(.*)$', re.IGNORECASE | re.MULTILINE)


class Parser(HTTPRequestParser):
    """Reads a request, and refuses what two servers could read differently.

    Attributes:
        is_head: Whether the method is HEAD, as far as that could be read.
    """

    is_head = False

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers (called by waitress).

        Raises:
            ParsingError: The request is malformed or ambiguous.
        """
        # of a request that is too long, waitress passes a substitute
        self.is_head = (self.header_plus.lstrip() or header_plus).startswith(b'HEAD ')
        try:
            super().parse_header(header_plus)
        except ValueError as ex:  # such as GET http://[, or a Content-Length of 5000 digits
            raise ParsingError(str(ex)) from ex
        self._refuse_ambiguous_framing(header_plus)
        if self.command == 'OPTIONS' and self.path == '*':
            self.path = '/'  # every path allows the same methods (RFC 9110, section 9.3.7)

    def _refuse_ambiguous_framing(self, header_plus: bytes) -> None:
        """Check Transfer-Encoding, Host and Connection (RFC 9112, sections 3.2, 6.3 and 9.6)."""
        codings = b','.join(TRANSFER_ENCODING.findall(header_plus))  # waitress drops the header
        if codings and (
            'CONTENT_LENGTH' in self.headers or self.version != '1.1' or b',' in codings
        ):
            raise ParsingError('Transfer-Encoding twice, with Content-Length or in HTTP/1.0')
        host = self.headers.get('HOST')
        if ',' in (host or '') or (host is None and self.version == '1.1'):
            raise ParsingError('no Host, or more than one')
        options = self.headers.get('CONNECTION', '').lower().split(',')
        if 'close' in [option.strip() for option in options]:
            self.headers['CONNECTION'] = 'close'  # waitress compares the whole header


class Task(WSGITask):
    """Answers a request with the application."""

    def build_response_header(self) -> bytes:
        """Return the head of the answer; a worker that ends closes the connection after it."""
        if self.channel.server.is_stopping:
            self.request.headers['CONNECTION'] = 'close'
        return super().build_response_header()

    def set_close_on_finish(self) -> None:
        """Close the connection after the answer (called by waitress).

        waitress calls this for every answer without a Content-Length. An answer that has no body,
        such as 304, does not need one, so its connection is kept.
        """
        may_stay = self.version == '1.1' and not self.has_body
        if not may_stay or self.request.headers.get('CONNECTION', '').lower() == 'close':
            super().set_close_on_finish()


class ProblemTask(ErrorTask):
    """Answers a request that waitress refuses with a problem document."""

    def execute(self) -> None:
        """Write the answer and close the connection."""
        status, headers, body = answer_without_application(
            self.request.error.code, time.time() - self.start_time
        )
        self.status = falcon.code_to_http_status(status)
        self.response_headers.extend(headers.items())
        # as if the client had asked for it: set_close_on_finish would send a second Connection
        # header to a client of HTTP/1.0 that keeps its connection
        self.request.headers['CONNECTION'] = 'close'
        self.content_length = len(body)
        self.write(b'' if self.request.is_head else body)


class Channel(HTTPChannel):
    """A client's connection.

    waitress stops watching a connection while it answers, and wakes the loop afterwards to watch
    it again. Here the loop keeps watching it, so most answers need not wake the loop.
    """

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask
    _has_early_data = False

    def readable(self) -> bool:
        """Tell whether to wait for data from the client (called by waitress)."""
        if self.requests:
            return not self._has_early_data
        self._has_early_data = False
        return super().readable()

    def handle_read(self) -> None:
        """Read a request; data that comes before the answer is complete has to wait."""
        if self.requests:
            self._has_early_data = True
        else:
            super().handle_read()

    def service(self) -> None:
        """Answer the next request (called by a thread of the worker)."""
        super().service()
        if self._has_early_data or self.writable():
            self.server.wake_loop()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until a client that reads slowly has taken most of a large answer."""
        if self.total_outbufs_len > self.adj.outbuf_high_watermark:
            hand_over_loop()
            self.server.wake_loop()
            super()._flush_outbufs_below_high_watermark()


class BalancedServer(BaseWSGIServer):
    """A server on a socket that all workers share, and from which each takes as many connections.

    Attributes:
        is_stopping: Whether the worker ends.
        counts: How many connections each worker has, in memory that all workers share.
        slot: The index of this worker in counts.
    """

    channel_class = Channel
    is_stopping = False
    counts: memoryview
    slot: int
    _skips = 0

    def wake_loop(self) -> None:
        """Make the thread in the loop look at the connections again."""
        self.task_dispatcher.wake_loop()

    def pull_trigger(self) -> None:
        """Do nothing: waitress wakes the loop after every answer, and Channel where needed."""

    def readable(self) -> bool:
        """Tell whether to accept connections (called by waitress)."""
        is_ready = super().readable() and not self.is_stopping
        self.counts[self.slot] = len(self._map) if is_ready else NO_WORKER
        return is_ready

    def handle_accept(self) -> None:
        """Accept a connection, or leave it to a worker that has fewer (called by waitress)."""
        fewest = min(count for count in self.counts if count != NO_WORKER)
        if len(self._map) > fewest and self._skips < MAX_SKIPS:
            self._skips += 1
            time.sleep(SKIP_S)
            return
        self._skips = 0
        super().handle_accept()

    def stop_listening(self) -> None:
        """Accept all waiting connections, then close the listening socket (called in the loop)."""
        self.is_stopping, before = True, -1
        while before < len(self._map):
            before, self._skips = len(self._map), MAX_SKIPS
            self.handle_accept()
        self.counts[self.slot] = NO_WORKER
        wasyncore.dispatcher.close(self)  # BaseWSGIServer.close would close the trigger too

    def is_busy(self) -> bool:
        """Tell whether a client waits for an answer, or may be about to send a request."""
        now = time.time()
        return any(
            channel.requests or channel.total_outbufs_len or now - channel.last_activity < GRACE_S
            for channel in list(self.active_channels.values())
        )


class TcpServer(BalancedServer, TcpWSGIServer):
    """A server on a TCP socket."""


class UnixServer(BalancedServer, UnixWSGIServer):
    """A server on a Unix socket."""


class HttpServer:
    """The servers of a worker, one for each of its listening sockets, and their threads.

    Args:
        application: The WSGI application.
        listeners: The listening sockets.
        counts: See BalancedServer.
        slot: See BalancedServer.
        threads: The maximum number of requests that are answered at the same time.
        client_timeout_s: Seconds after which a client that neither sends nor reads is disconnected.
    """

    def __init__(
        self,
        application: Callable,
        listeners: list[socket.socket],
        *,
        counts: memoryview,
        slot: int,
        threads: int,
        client_timeout_s: int,
    ) -> None:
        self._map: dict[int, wasyncore.dispatcher] = {}
        self.threads = LeaderFollowers(self._run_loop, self._wake_loop, threads)
        adjustments = Adjustments(
            ident=None,
            clear_untrusted_proxy_headers=False,
            connection_limit=min(CONNECTION_LIMIT, getrlimit(RLIMIT_NOFILE)[0] - RESERVED_FILES),
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
            channel_timeout=client_timeout_s,
            cleanup_interval=min(client_timeout_s, 30),
            # answers stay in memory until clients read them: a temporary folder may be full
            outbuf_overflow=sys.maxsize,
        )
        if hasattr(socket, 'TCP_USER_TIMEOUT'):  # ends a connection whose client does not read
            timeout_ms = client_timeout_s * 1000
            option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
            adjustments.socket_options = [*Adjustments.socket_options, option]
        self._servers = []
        for listener in listeners:
            server_class = UnixServer if listener.family == socket.AF_UNIX else TcpServer
            server = server_class(
                application,
                self._map,
                _sock=listener,
                dispatcher=self.threads,
                adj=adjustments,
                bind_socket=False,
                sockinfo=(listener.family, listener.type, listener.proto, None),
            )
            server.counts, server.slot = counts, slot
            self._servers.append(server)

    def start(self) -> None:
        """Start to accept connections."""
        self.threads.start()

    def stop_listening(self) -> None:
        """Accept the clients that have connected so far, and none after them."""
        for server in self._servers:
            server.trigger.pull_trigger(server.stop_listening)

    def is_busy(self) -> bool:
        """Tell whether a client waits for an answer, or may be about to send a request."""
        return any(server.accepting or server.is_busy() for server in self._servers)

    def _run_loop(self, timeout_s: float) -> None:
        wasyncore.loop(timeout_s, use_poll=True, map=self._map, count=1)

    def _wake_loop(self) -> None:
        self._servers[0].trigger.pull_trigger()
