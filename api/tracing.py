"""Following a request: its id, where its time went, and its line in the access log."""

import logging
import re
import sys
import uuid
from dataclasses import dataclass
from time import perf_counter

import falcon
import structlog
from structlog.stdlib import ProcessorFormatter

from api.metrics import Metrics

log = logging.getLogger('api.access')

# a warning that every request could cause is written once in this time
WARNING_INTERVAL_S = 10.0
SANE_ID = re.compile(r'[A-Za-z0-9._~:/+=@-]{1,64}', re.ASCII)
RENDERERS = {
    'logfmt': structlog.processors.LogfmtRenderer(key_order=['timestamp', 'level', 'event']),
    'json': structlog.processors.JSONRenderer(),
}


@dataclass
class Timings:
    """Where a request's time went, in seconds."""

    pool_s: float = 0.0
    database_s: float = 0.0


class Debounce(logging.Filter):
    """Lets the same warning through once in WARNING_INTERVAL_S, with how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a line."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        last, held_back = self._written.get(message, (0.0, 0))
        if record.created - last < WARNING_INTERVAL_S:
            self._written[message] = (last, held_back + 1)
            return False
        self._written[message] = (record.created, 0)
        if held_back:
            record.held_back = held_back
        return True


def configure_logging(level: str, format_: str) -> None:
    """Send all log lines to standard error.

    Args:
        level: The least severe level that is written, such as info.
        format_: A key of RENDERERS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Debounce())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt='iso', utc=True),
            ],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                RENDERERS[format_],
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])


def new_request_id() -> str:
    """Return an id for a request that brought none."""
    return uuid.uuid4().hex


def request_id(req: falcon.Request) -> str:
    """Return a request's id: the client's X-Request-ID if it is sane, else one made here."""
    if 'request_id' not in req.context:  # falcon refuses some methods before any middleware
        sent = req.get_header('X-Request-ID', default='')
        req.context.request_id = sent if SANE_ID.fullmatch(sent) else new_request_id()
        req.context.started = perf_counter()
        req.context.timings = Timings()
    return req.context.request_id


class Tracing:
    """Falcon middleware: gives every request its id and timings, logs and counts its answer.

    Args:
        metrics: Where answers are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Begin to follow the request."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id(req))

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, _resource: object, _succeeded: object
    ) -> None:
        """Tell client and log who asked what and where the time went."""
        resp.set_header('X-Request-ID', request_id(req))
        total_s = perf_counter() - req.context.started
        timings = req.context.timings
        pool_ms, database_ms = timings.pool_s * 1000, timings.database_s * 1000
        route = req.uri_template or '-'
        problem = req.context.get('problem')
        self._metrics.observe(route, resp.status_code, total_s, timings.database_s)
        if problem:
            self._metrics.problems.labels(problem).inc()
        if pool_ms:
            resp.set_header('Server-Timing', f'pool;dur={pool_ms:.3f}, db;dur={database_ms:.3f}')
        if log.isEnabledFor(logging.INFO):
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
            log.info('request', extra=fields | ({'problem': problem} if problem else {}))
