"""Error responses: the kinds of problems, and their format (RFC 9457)."""

import json
import logging
from functools import partial
from typing import NamedTuple, NoReturn

import falcon
import psycopg
from psycopg.errors import QueryCanceled
from psycopg_pool import TooManyRequests

from api.http.tracing import TracedRequest, new_request_id
from api.telemetry import metrics

log = logging.getLogger(__name__)

HEADERS = {'Content-Type': 'application/problem+json', 'Cache-Control': 'no-store'}
TYPE_PREFIX = '/docs/problems/'
RETRY = (('Retry-After', '1'),)
CHALLENGE = (('WWW-Authenticate', 'Bearer realm="membership-benefits"'),)


class Kind(NamedTuple):
    """A kind of problem: its status, what it means to a client, and its response headers."""

    status: int
    title: str
    meaning: str
    headers: tuple[tuple[str, str], ...] = ()


# fmt: off
PROBLEMS = {
    'invalid-request': Kind(400, 'Invalid request', meaning=
        'The request is not valid HTTP.'),
    'invalid-parameter': Kind(400, 'Invalid parameter', meaning=
        'A parameter is missing, repeated, unknown or malformed; the detail says what is allowed.'),
    'unauthorized': Kind(401, 'Unauthorized', headers=CHALLENGE, meaning=
        'The Authorization header must contain Bearer and a valid token.'),
    'path-not-found': Kind(404, 'No such path', meaning=
        'The path does not exist; the documentation lists the paths.'),
    'entity-not-found': Kind(404, 'No such venue or person', meaning=
        'The venue or person with this id does not exist.'),
    'method-not-allowed': Kind(405, 'Method not allowed', meaning=
        'The path does not support this method; the Allow header lists the supported methods.'),
    'body-too-large': Kind(413, 'Body too large', meaning=
        'The request body is too large; no request needs a body.'),
    'range-not-satisfiable': Kind(416, 'Range not satisfiable', meaning=
        'The requested range is outside the file; the Content-Range header has its length.'),
    'headers-too-large': Kind(431, 'Headers too large', meaning=
        'The request line and the headers together are too large.'),
    'internal-error': Kind(500, 'Internal error', meaning=
        'The service failed; its log contains the reason and this requestId.'),
    'not-implemented': Kind(501, 'Not implemented', meaning=
        'The transfer coding of the request is not supported.'),
    'database-unavailable': Kind(503, 'Database unavailable', headers=RETRY, meaning=
        'The database is unavailable; retry after the time in Retry-After.'),
    'overloaded': Kind(503, 'Overloaded', headers=RETRY, meaning=
        'Too many requests are in progress; retry after the time in Retry-After.'),
    'statement-timeout': Kind(504, 'Timeout', meaning=
        'The report exceeded the statement timeout; retry later.'),
}
# fmt: on
# the kinds for exceptions of the database; falcon selects the most specific class
DATABASE_FAILURES = {
    TooManyRequests: 'overloaded',
    QueryCanceled: 'statement-timeout',
    psycopg.OperationalError: 'database-unavailable',
    psycopg.Error: 'internal-error',
}


class Problem(falcon.HTTPError):
    """An error response of one of the kinds in PROBLEMS.

    Args:
        kind: A key of PROBLEMS.
        detail: What is wrong and what is allowed; by default, the meaning of the kind.
        parameter: The invalid parameter, if any.
    """

    def __init__(self, kind: str, detail: str = '', *, parameter: str | None = None) -> None:
        row = PROBLEMS[kind]
        super().__init__(row.status, title=row.title, description=detail or row.meaning)
        self.kind = kind
        self.extension = {'parameter': parameter} if parameter else {}
        self.headers = HEADERS | dict(row.headers)

    def body(self, request_id: str) -> bytes:
        """Return the problem details object."""
        members = {
            'type': TYPE_PREFIX + self.kind,
            'title': self.title,
            'status': self.status_code,
            'detail': self.description,
            'requestId': request_id,
        }
        return json.dumps(members | self.extension).encode()


def problem_of_status(status: int) -> Problem:
    """Return the problem for an error that has only a status: the first kind with that status."""
    default = 'invalid-request' if status < 500 else 'internal-error'
    return Problem(next((k for k, row in PROBLEMS.items() if row.status == status), default))


def answer_without_application(status: int) -> tuple[int, dict[str, str], bytes]:
    """Log and count a request that the HTTP server rejects; return status, headers and body."""
    problem = problem_of_status(status)
    id_ = new_request_id()
    metrics.requests.labels('-', problem.status_code).observe(0)  # not measured
    metrics.problems.labels(problem.kind).inc()
    fields = {'request_id': id_, 'status': problem.status_code, 'problem': problem.kind}
    log.info('refused', fields)
    return problem.status_code, problem.headers | {'X-Request-ID': id_}, problem.body(id_)


def add_error_handlers(app: falcon.App) -> None:
    """Make an application respond to every exception with a problem."""
    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, handle_unexpected)
    for class_, kind in DATABASE_FAILURES.items():
        app.add_error_handler(class_, partial(handle_database_failure, kind))


def serialize(req: TracedRequest, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Write an error as a problem."""
    problem = error if isinstance(error, Problem) else problem_of_status(error.status_code)
    req.problem = problem.kind
    resp.status = problem.status
    resp.set_headers(problem.headers)
    resp.data = problem.body(req.id)


def handle_unexpected(
    _req: TracedRequest, _resp: falcon.Response, ex: Exception, _params: dict
) -> NoReturn:
    """Respond with an internal error, and log the exception."""
    log.error('unexpected exception', exc_info=ex)
    raise Problem('internal-error') from ex


def handle_database_failure(
    kind: str, req: TracedRequest, _resp: falcon.Response, ex: psycopg.Error, _params: dict
) -> NoReturn:
    """Respond with a problem. The reason goes only into the log."""
    [first_line, *_] = str(ex).splitlines() or ['']  # other lines may quote the statement
    req.cause = f'{type(ex).__name__}: {first_line}'
    raise Problem(kind) from ex


def meanings() -> dict[str, bytes]:
    """Return the meaning of each kind of problem, as JSON, by its type."""
    pages = {}
    for kind, row in PROBLEMS.items():
        fixed = {'type': TYPE_PREFIX + kind, 'title': row.title, 'status': row.status}
        pages[fixed['type']] = json.dumps(fixed | {'meaning': row.meaning}).encode()
    return pages
