"""Every answer that is an error: one table of problems, in one shape (RFC 9457)."""

import json
import logging
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
    """A kind of problem: its status, what a client is told, and headers of the answer."""

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
        'The header Authorization must hold Bearer and a token that is valid here.'),
    'path-not-found': Kind(404, 'No such path', meaning=
        'There is nothing here; the documentation shows the paths.'),
    'entity-not-found': Kind(404, 'No such venue or person', meaning=
        'The venue or person that the parameter names does not exist.'),
    'method-not-allowed': Kind(405, 'Method not allowed', meaning=
        'The path does not take this method; the header Allow lists those it takes.'),
    'body-too-large': Kind(413, 'Body too large', meaning=
        'No request here needs a body.'),
    'range-not-satisfiable': Kind(416, 'Range not satisfiable', meaning=
        'The file has no such bytes; the header Content-Range tells how many it has.'),
    'headers-too-large': Kind(431, 'Headers too large', meaning=
        'The request line and the headers together are too long.'),
    'internal-error': Kind(500, 'Internal error', meaning=
        'The service failed; its log says why, under the requestId.'),
    'not-implemented': Kind(501, 'Not implemented', meaning=
        'The transfer coding is not supported.'),
    'database-unavailable': Kind(503, 'Database unavailable', headers=RETRY, meaning=
        'The database cannot be reached now; try again after the seconds in Retry-After.'),
    'overloaded': Kind(503, 'Overloaded', headers=RETRY, meaning=
        'Too many requests are in progress; try again after the seconds in Retry-After.'),
    'statement-timeout': Kind(504, 'Timeout', meaning=
        'The report took longer than the statement timeout; try again later.'),
}
# fmt: on
# the kind of an error that has only a status: the first one in the table
KINDS_BY_STATUS = {kind.status: name for name, kind in reversed(PROBLEMS.items())}

# the kinds of the database's failures; of two classes that fit an exception, the narrower counts
FAILURES = {
    TooManyRequests: 'overloaded',
    QueryCanceled: 'statement-timeout',
    psycopg.OperationalError: 'database-unavailable',
}


class Problem(falcon.HTTPError):
    """An answer of one of the kinds in PROBLEMS.

    Args:
        kind: A key of PROBLEMS.
        detail: What is wrong and what is allowed; by default, what the table says.
        parameter: The parameter that is to blame, if one is.
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
    """Return the problem for an error that has nothing but a status, or the nearest one."""
    nearest = 'invalid-request' if status < 500 else 'internal-error'
    return Problem(KINDS_BY_STATUS.get(status, nearest))


def answer_without_application(status: int, seconds: float) -> tuple[int, dict[str, str], bytes]:
    """Log and count a request that the HTTP server refuses, and make its answer.

    Args:
        status: The status of the refusal.
        seconds: How long the request took.

    Returns:
        Status, headers and body of the answer.
    """
    problem = problem_of_status(status)
    id_ = new_request_id()
    metrics.requests.labels('-', problem.status_code).observe(seconds)
    metrics.problems.labels(problem.kind).inc()
    fields = {'request_id': id_, 'status': problem.status_code, 'problem': problem.kind}
    log.info('refused', fields)
    return problem.status_code, problem.headers | {'X-Request-ID': id_}, problem.body(id_)


def add_error_handlers(app: falcon.App) -> None:
    """Make an application answer every failure with a problem."""
    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, fail)


def serialize(req: TracedRequest, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Write a problem, or an error of falcon's own as one."""
    problem = error if isinstance(error, Problem) else problem_of_status(error.status_code)
    req.failure = {'problem': problem.kind} | req.failure
    resp.status = problem.status
    resp.set_headers(problem.headers)
    resp.data = problem.body(req.id)


def fail(req: TracedRequest, _resp: falcon.Response, ex: Exception, _params: dict) -> NoReturn:
    """Turn an exception into a problem; its cause goes to the log only."""
    if isinstance(ex, psycopg.Error):
        [first_line, *_] = str(ex).splitlines() or ['']  # the others may quote the statement
        req.failure = {'cause': f'{type(ex).__name__}: {first_line}'}
    else:
        log.error('unexpected failure', exc_info=ex)
    kinds = [FAILURES[class_] for class_ in type(ex).__mro__ if class_ in FAILURES]
    raise Problem(kinds[0] if kinds else 'internal-error') from ex


def meanings() -> dict[str, bytes]:
    """Return what each kind of problem means, as JSON, by its type."""
    pages = {}
    for kind, row in PROBLEMS.items():
        fixed = {'type': TYPE_PREFIX + kind, 'title': row.title, 'status': row.status}
        pages[fixed['type']] = json.dumps(fixed | {'meaning': row.meaning}).encode()
    return pages
