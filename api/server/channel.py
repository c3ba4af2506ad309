"""A client's connection: what waitress reads, and answers by itself, in the service's own way."""

import logging
import re
import socket
import time
from contextlib import suppress

import falcon
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask

from api.http.problems import problem_of_status
from api.telemetry.tracing import new_request_id

log = logging.getLogger(__name__)

# a client that sends its next request before it has read this much of the answers is disconnected
MAX_UNREAD_BYTES = 16 * 1024 * 1024


class Task(WSGITask):
    """Answers a request with the application."""

    def build_response_header(self) -> bytes:
        """Return the answer's head; when the worker ends, it closes the connection."""
        if not self.channel.server.is_listening:
            close_after(self)
        return super().build_response_header()

    def set_close_on_finish(self) -> None:
        """Close the connection after the answer (called by waitress).

        waitress wants this after every answer without a Content-Length, but one that has no
        body, such as 304, ends by itself.
        """
        may_stay = self.version == '1.1' and not self.has_body
        if not may_stay or self.request.headers.get('CONNECTION', '').lower() == 'close':
            super().set_close_on_finish()


class ProblemTask(ErrorTask):
    """Answers what never reaches the application, such as malformed HTTP, with a problem."""

    def execute(self) -> None:
        """Write the problem, log and count it, and close the connection."""
        problem = problem_of_status(self.request.error.code)
        request_id = new_request_id()
        body = problem.body(request_id)
        self.status = falcon.code_to_http_status(problem.status)
        self.response_headers.extend([*problem.headers.items(), ('X-Request-ID', request_id)])
        close_after(self)
        self.channel.lingers = True
        self.content_length = len(body)
        self.write(b'' if self.request.is_head else body)
        metrics = self.channel.server.metrics
        metrics.observe('-', problem.status_code, time.time() - self.start_time, 0)
        metrics.problems.labels(problem.kind).inc()
        log.info(
            'refused',
            extra={
                'request_id': request_id,
                'status': problem.status_code,
                'problem': problem.kind,
            },
        )


def close_after(task: WSGITask | ErrorTask) -> None:
    """Close the connection after an answer, as if the client had asked for it.

    waitress's set_close_on_finish would tell a client of HTTP/1.0 that keeps its connection both.
    """
    task.request.headers['CONNECTION'] = 'close'


TRANSFER_ENCODING = re.compile(rb'^transfer-encoding:(.*)$', re.IGNORECASE | re.MULTILINE)


class Parser(HTTPRequestParser):
    """Reads a request; one that waitress's parser fails at is malformed, not without an answer.

    Attributes:
        is_head: Whether it is for the head alone, as far as that could be read.
    """

    is_head = False

    def parse_header(self, header_plus: bytes) -> None:
        """Read the request line and the headers.

        Raises:
            ParsingError: They are no HTTP.
        """
        # of what is too long, waitress only passes a substitute
        begin = self.header_plus.lstrip() or header_plus
        self.is_head = begin.startswith(b'HEAD ')
        try:
            super().parse_header(header_plus)
        except ValueError as ex:  # such as GET http://[, or a Content-Length of 5000 digits
            raise ParsingError(str(ex)) from ex
        self.check_framing(header_plus)
        if self.command == 'OPTIONS' and self.path == '*':
            self.path = '/'  # as good as any for what all have (RFC 9110, section 9.3.7)

    def check_framing(self, header_plus: bytes) -> None:
        """Refuse what two servers could read differently (RFC 9112, sections 3.2 and 6.3).

        Raises:
            ParsingError: It is not clear where the request ends, or whom it is for.
        """
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
            self.headers['CONNECTION'] = 'close'  # the only one that waitress looks for


class Channel(HTTPChannel):
    """A client's connection.

    Attributes:
        lingers: Whether it is closed as soon as the client has, after an answer to a request that
            was not read to its end: closing it earlier would reset it, answer and all (RFC 9112,
            section 9.6). Whoever does not close it is disconnected as an idle client is.
    """

    parser_class = Parser
    task_class = Task
    error_task_class = ProblemTask
    lingers = False
    is_shut = False

    def service(self) -> None:
        """Answer the next request, unless too much of the answers before it is still unread."""
        if self.total_outbufs_len > MAX_UNREAD_BYTES:
            with self.requests_lock:
                self.close_when_flushed = True
                for request in self.requests:
                    request.close()
                self.requests = []
        else:
            super().service()
        if self.total_outbufs_len:
            self.server.limit_unread()
        self.server.has_changed(self)

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Do nothing (called by waitress): no thread waits until a client reads."""

    def handle_close(self) -> None:
        """Close it, or wait until the client does."""
        if self.lingers and self.connected and not self.is_shut:
            self.is_shut = True
            self.will_close = False
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        else:
            super().handle_close()

    def readable(self) -> bool:
        """Tell whether to read from it."""
        return self.is_shut or super().readable()

    def handle_read(self) -> None:
        """Read a request, or what comes after the last one."""
        if self.is_shut:
            with suppress(OSError):
                self.recv(self.adj.recv_bytes)
        else:
            super().handle_read()
