"""The id of each request, its line in the log, its metrics and its Server-Timing header.

All times begin when the application receives the request. The time that a request waits in the
server's queue before that is not measured.
"""

import logging
import os
import re
from time import perf_counter

import falcon

from api.telemetry import metrics
from api.telemetry.log import request_id
from api.telemetry.metrics import Timings

log = logging.getLogger('api.access')

VALID_ID = re.compile(r'[A-Za-z0-9._~:/+=@-]{1,64}', re.ASCII)


def new_request_id() -> str:
    """Return a new id, for a request without a valid one."""
    return os.urandom(16).hex()


class TracedRequest(falcon.Request):
    """A request with timings, and with an id that all log lines have until the response.

    Attributes:
        id: The client's X-Request-ID if it is valid, else a new one.
        started: When the application received the request, by time.perf_counter().
        timings: The times of its statements so far.
        problem: The kind of problem of an error response, else ''.
        cause: The exception of the database for that problem, for the log only, else ''.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.started = perf_counter()
        super().__init__(*args, **kwargs)
        sent = self.get_header('X-Request-ID', default='')
        self.id = sent if VALID_ID.fullmatch(sent) else new_request_id()
        request_id.set(self.id)
        self.timings = Timings()
        self.problem = ''
        self.cause = ''


class Tracing:
    """Falcon middleware: logs and counts requests, and sets X-Request-ID and Server-Timing."""

    def process_response(
        self, req: TracedRequest, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """Log and count the request, and set the headers."""
        resp.set_header('X-Request-ID', req.id)
        total_s = perf_counter() - req.started
        pool_ms, database_ms = req.timings.pool_s * 1000, req.timings.database_s * 1000
        route = req.uri_template or '-'
        metrics.requests.labels(route, resp.status_code).observe(total_s)
        if pool_ms:
            resp.set_header('Server-Timing', f'pool;dur={pool_ms:.3f}, db;dur={database_ms:.3f}')
        length = resp.content_length or len(resp.render_body() or b'')
        fields = {
            'method': req.method,
            'route': route,
            'status': resp.status_code,
            'bytes': 0 if req.method == 'HEAD' else int(length),
            'total_ms': round(total_s * 1000, 3),
            'pool_ms': round(pool_ms, 3),
            'database_ms': round(database_ms, 3),
        }
        if req.problem:
            metrics.problems.labels(req.problem).inc()
            fields['problem'] = req.problem
        if req.cause:
            fields['cause'] = req.cause
        log.log(logging.WARNING if resp.status_code >= 500 else logging.INFO, 'request', fields)
        request_id.set(None)
