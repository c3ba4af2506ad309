"""waitress on a worker's listening sockets: greenlets, limits, problem documents.

gunicorn's own gevent worker answers invalid HTTP with a page of its own. So waitress reads requests
and writes responses. Greenlets replace its loop and its threads.
"""

import logging
import socket
import sys

import falcon
from gevent.socket import wait_read
from gunicorn.workers.base import Worker
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer, create_server
from waitress.task import ErrorTask, WSGITask

from api.http.problems import answer_without_application

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class Parser(HTTPRequestParser):
    """Reads a request."""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers; raises ParsingError (called by waitress)."""
        try:
            super().parse_header(header_plus)
        except ValueError as ex:  # such as GET http://[, or a Content-Length of 5000 digits
            raise ParsingError(str(ex)) from ex
        finally:
            # waitress would send 100 Continue, and wait for a body even if there is none
            self.expect_continue = False
        headers = self.headers
        # a proxy could read a different length or host (request smuggling, RFC 9112, section 6.3);
        # waitress keeps Transfer-Encoding only in HTTP/1.0
        if 'TRANSFER_ENCODING' in headers or (self.chunked and 'CONTENT_LENGTH' in headers):
            raise ParsingError('ambiguous length')
        if ',' in headers.get('HOST', '') or (self.version == '1.1' and 'HOST' not in headers):
            raise ParsingError('no Host, or more than one')


class Task(WSGITask):
    """Answers a request with the application."""

    def build_response_header(self) -> bytes:
        """Return the head of the answer. During shutdown, it announces that the connection ends."""
        if not self.channel.server.worker.alive:
            self.request.headers['CONNECTION'] = 'close'
        return super().build_response_header()

    def set_close_on_finish(self) -> None:
        """Keep the connection open after a 304, although it has no length (called by waitress)."""
        is_wanted = self.request.headers.get('CONNECTION', '').lower() == 'close'
        if is_wanted or self.has_body or self.version == '1.0':
            super().set_close_on_finish()


class ProblemTask(ErrorTask):
    """Sends a problem document for a request that waitress refuses."""

    def execute(self) -> None:
        """Write the answer, and close the connection (called by waitress)."""
        status, headers, body = answer_without_application(self.request.error.code)
        self.status = falcon.code_to_http_status(status)
        self.response_headers.extend(headers.items())
        self.request.headers['CONNECTION'] = 'close'
        self.content_length = len(body)
        is_head = getattr(self.request, 'command', 'GET') == 'HEAD'  # GET if it cannot be read
        self.write(b'' if is_head else body)


class Channel(HTTPChannel):
    """A client's connection. It is served by a greenlet, instead of waitress's loop."""

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask

    def serve(self) -> None:
        """Answer requests until the client closes the connection, or is idle for too long."""
        try:
            self.socket.settimeout(self.adj.channel_timeout)  # for writes; notify() ends idle reads
            self.server.set_socket_options(self.socket)
            while self.connected and not self.will_close:
                if self.requests:
                    self.service()
                    if not self.will_close:
                        self._flush_exception(self._flush_some)  # before the next request
                elif self.writable():
                    self.handle_write()
                else:
                    # let other greenlets run, even if the next request is already there
                    wait_read(self.socket.fileno())
                    self.handle_read()
        except Exception:
            log.exception('the server failed to answer a request')
        finally:
            self.handle_close()


def create_http_server(worker: Worker, listener: socket.socket) -> BaseWSGIServer:
    """Return waitress's server for a listening socket. It is passed to every Channel."""
    server = create_server(
        worker.wsgi,
        _start=False,  # gunicorn listens
        _dispatcher=object(),  # no threads: the greenlet of the connection responds
        sockets=[listener],
        ident=None,  # no Server header
        clear_untrusted_proxy_headers=False,  # the application reads no headers of proxies
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=MAX_BODY_BYTES,
        channel_timeout=worker.app.settings.client_timeout_s,
        log_socket_errors=False,  # a timeout of a client is no error
        # responses stay in memory until clients read them: a temporary folder may be full
        outbuf_overflow=sys.maxsize,
        outbuf_high_watermark=sys.maxsize,  # beyond it, waitress would wait for its loop
    )
    server.worker = worker
    # one send for head and body saves 5 % of the CPU time; as an argument, this is deprecated
    server.adj.send_bytes = 64 * 1024
    # there is no loop to wake, and there are no threads
    server.pull_trigger = server.add_task = lambda *_: None
    return server
