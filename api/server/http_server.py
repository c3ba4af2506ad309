"""waitress on a worker's listening sockets: limits, balanced connections, problem documents."""

import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import falcon
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, WSGITask

from api.http.problems import answer_without_application
from api.server.threads import LeaderFollowers, hand_over_loop

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
# of a worker; below the usual limit of open files, 1,024
MAX_CONNECTIONS = 900
# seconds for which a worker leaves connections to others, and of each pause meanwhile
MAX_DEFERRED_S = 0.01
PAUSE_S = 0.0005


class Parser(HTTPRequestParser):
    """Reads a request."""

    is_head = False

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers; raises ParsingError (called by waitress)."""
        # for a head that is too long, waitress passes GET / instead of what it has received
        self.is_head = (self.header_plus.lstrip() or header_plus).startswith(b'HEAD ')
        try:
            super().parse_header(header_plus)
        except ValueError as ex:  # such as GET http://[, or a Content-Length of 5000 digits
            raise ParsingError(str(ex)) from ex
        headers = self.headers
        # another server could see a different end of the request, or another host (RFC 9112, 6.3);
        # waitress has removed Transfer-Encoding in HTTP/1.1
        if 'TRANSFER_ENCODING' in headers or (self.chunked and 'CONTENT_LENGTH' in headers):
            raise ParsingError('ambiguous length')
        if ',' in headers.get('HOST', ',' if self.version == '1.1' else ''):
            raise ParsingError('no Host, or more than one')


class Task(WSGITask):
    """Answers a request with the application."""

    def build_response_header(self) -> bytes:
        """Return the head of the answer. During shutdown, it announces that the connection ends."""
        if self.channel.server.task_dispatcher.is_stopping:
            self.request.headers['CONNECTION'] = 'close'
        return super().build_response_header()

    def set_close_on_finish(self) -> None:
        """Close the connection after an answer of unknown length, but not after a 304."""
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
        self.request.headers['CONNECTION'] = 'close'
        self.content_length = len(body)
        self.write(b'' if self.request.is_head else body)


class Channel(HTTPChannel):
    """A client's connection."""

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask

    def writable(self) -> bool:
        """Return whether the loop has to send: not while a thread sends, which holds the lock."""
        if not super().writable() or not self.outbuf_lock.acquire(blocking=False):
            return False
        self.outbuf_lock.release()
        return True

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until a slow client has read most of a large answer; the loop sends it meanwhile."""
        if self.total_outbufs_len > self.adj.outbuf_high_watermark:
            hand_over_loop(frees_slot=True)
            super()._flush_outbufs_below_high_watermark()


def create_servers(
    application: Callable,
    sockets: list[socket.socket],
    threads: LeaderFollowers,
    client_timeout_s: int,
    has_most: Callable[[], bool],
) -> list[BaseWSGIServer]:
    """Return a server for each listening socket.

    Args:
        application: The WSGI application.
        sockets: The listening sockets.
        threads: The threads that run the servers.
        client_timeout_s: Seconds after which an idle client is disconnected.
        has_most: Returns whether another worker has fewer connections.
    """
    create_server(
        application,
        threads.map,
        _dispatcher=threads,
        sockets=sockets,
        ident=None,
        clear_untrusted_proxy_headers=False,
        connection_limit=MAX_CONNECTIONS,
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=MAX_BODY_BYTES,
        channel_timeout=client_timeout_s,
        cleanup_interval=min(client_timeout_s, 30),
        # answers stay in memory until clients read them: a temporary folder may be full
        outbuf_overflow=sys.maxsize,
    )
    servers = [watched for watched in threads.map.values() if isinstance(watched, BaseWSGIServer)]
    for server in servers:
        server.adj.socket_options = [  # no argument of create_server
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, client_timeout_s * 1000),
        ]
        server.channel_class = Channel
        server.pull_trigger = threads.wake_loop
        server.deferred_at = None
        server.handle_accept = partial(accept_backlog, server, has_most)
    return servers


def accept_backlog(server: BaseWSGIServer, has_most: Callable[[], bool]) -> None:
    """Accept all connections in the backlog; waitress accepts one whenever the loop runs.

    Connections are left to workers that have fewer, but only for MAX_DEFERRED_S: they may be stuck.
    """
    before = 0
    while before < len(server._map) < MAX_CONNECTIONS:
        if has_most():
            server.deferred_at = server.deferred_at or time.monotonic()
            if time.monotonic() - server.deferred_at < MAX_DEFERRED_S:
                time.sleep(PAUSE_S)
                return
        server.deferred_at = None
        before = len(server._map)
        BaseWSGIServer.handle_accept(server)
