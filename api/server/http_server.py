"""waitress on a worker's listening sockets: limits, problem documents, balanced connections."""

import errno
import re
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from resource import RLIMIT_NOFILE, getrlimit

import falcon
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, WSGITask

from api.http.problems import answer_without_application
from api.server.threads import LeaderFollowers, hand_over_loop

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
# connections of a worker, and the files that it needs beside them
CONNECTION_LIMIT = 2000
RESERVED_FILES = 64
SKIP_S = 0.0005
MAX_SKIPPED_S = 0.01
# two codings, or a coding beside a length: two servers may see two different ends of the request
AMBIGUOUS_LENGTH = re.compile(
    rb'^transfer-encoding:(.*,|.*^(transfer-encoding|content-length):)'
    rb'|^content-length:.*^transfer-encoding:',
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)


class Parser(HTTPRequestParser):
    """Reads a request, and refuses what two servers could read differently."""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers; raises ParsingError (called by waitress)."""
        try:
            super().parse_header(header_plus)
        except ValueError as ex:  # such as GET http://[, or a Content-Length of 5000 digits
            raise ParsingError(str(ex)) from ex
        headers = self.headers
        if AMBIGUOUS_LENGTH.search(header_plus) or 'TRANSFER_ENCODING' in headers:  # in HTTP/1.0
            raise ParsingError('ambiguous length')
        if ',' in headers.get('HOST', ',' if self.version == '1.1' else ''):
            raise ParsingError('no Host, or more than one')
        if 'close' in re.split(r'[\s,]+', headers.get('CONNECTION', '').lower()):
            headers['CONNECTION'] = 'close'  # waitress compares the whole header
        if self.command == 'OPTIONS' and self.path == '*':
            self.path = '/'  # all paths allow the same methods (RFC 9110, section 9.3.7)


class Task(WSGITask):
    """Answers a request with the application."""

    def build_response_header(self) -> bytes:
        """Return the head of the answer; a worker that ends closes the connection after it."""
        if self.channel.server.task_dispatcher.is_stopping:
            self.request.headers['CONNECTION'] = 'close'
        return super().build_response_header()

    def set_close_on_finish(self) -> None:
        """Close the connection after an answer without a length, unless it has no body, as 304."""
        is_wanted = self.request.headers.get('CONNECTION', '').lower() == 'close'
        if is_wanted or self.has_body or self.version == '1.0':
            super().set_close_on_finish()


class ProblemTask(ErrorTask):
    """Answers a request that waitress refuses with a problem document."""

    def execute(self) -> None:
        """Write the answer, and close the connection (called by waitress)."""
        status, headers, body = answer_without_application(
            self.request.error.code, time.time() - self.start_time
        )
        self.status = falcon.code_to_http_status(status)
        self.response_headers.extend(headers.items())
        # set_close_on_finish would add a second Connection header to that of a kept HTTP/1.0
        self.request.headers['CONNECTION'] = 'close'
        self.content_length = len(body)
        begin = self.request.header_plus.lstrip() or getattr(self.request, 'first_line', b'')
        self.write(b'' if begin.startswith(b'HEAD ') else body)


class Channel(HTTPChannel):
    """A client's connection."""

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask

    def readable(self) -> bool:
        """Tell whether to watch for data from the client (called by waitress)."""
        if self.will_close:  # waitress would first wait until the client reads
            self.handle_close()
        return super().readable()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until a slow client has read most of a large answer; the loop sends it meanwhile."""
        if self.total_outbufs_len > self.adj.outbuf_high_watermark:
            hand_over_loop(is_idle=True)
            super()._flush_outbufs_below_high_watermark()


class BalancedSocket(socket.socket):
    """A listening socket that several workers share.

    A worker that has more connections than another one leaves a new one to it, for MAX_SKIPPED_S at
    most: the other worker may be stuck.

    Attributes:
        has_most: Tells whether another worker has fewer connections.
    """

    has_most: Callable[[], bool]
    _skipped_at: float | None = None

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection, or raise BlockingIOError as if there was none."""
        now = time.monotonic()
        self._skipped_at = self._skipped_at or now
        if now - self._skipped_at < MAX_SKIPPED_S and self.has_most():
            time.sleep(SKIP_S)
            raise BlockingIOError(errno.EWOULDBLOCK, 'left to another worker')
        self._skipped_at = None
        return super().accept()


def create_servers(
    application: Callable,
    sockets: list[BalancedSocket],
    threads: LeaderFollowers,
    client_timeout_s: int,
) -> list[BaseWSGIServer]:
    """Return a server for each listening socket.

    Args:
        application: The WSGI application.
        sockets: The listening sockets.
        threads: The threads that run the servers.
        client_timeout_s: Seconds after which a client that neither sends nor reads is disconnected.
    """
    for each in sockets:
        if hasattr(socket, 'TCP_USER_TIMEOUT') and each.family != socket.AF_UNIX:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, client_timeout_s * 1000)
    create_server(
        application,
        threads.map,
        _dispatcher=threads,
        sockets=sockets,
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
    servers = [watched for watched in threads.map.values() if isinstance(watched, BaseWSGIServer)]
    for server in servers:
        server.channel_class = Channel
        server.pull_trigger = threads.wake_loop
        server.handle_accept = partial(accept_waiting, server)
    return servers


def accept_waiting(server: BaseWSGIServer) -> None:
    """Accept all clients that wait; waitress accepts one whenever the loop runs."""
    watched = 0
    while watched < (watched := len(server._map)) < server.adj.connection_limit:
        BaseWSGIServer.handle_accept(server)
