"""Every answer that is not a report: one table of problems, in one shape (RFC 9457)."""

import json
import logging
from typing import NoReturn

import falcon
import psycopg

from api.tracing import request_id

log = logging.getLogger(__name__)

PROBLEM_JSON = 'application/problem+json'
TYPE_PREFIX = '/docs/problems/'
RETRY_AFTER_S = 1
REALM = 'membership-benefits'

# kind: (status, title, what it means and what to do)
PROBLEMS = {
    'invalid-request': (400, 'Invalid request', 'The request is not valid HTTP.'),
    'invalid-parameter': (
        400,
        'Invalid parameter',
        'A parameter is missing, repeated, unknown or malformed; the detail says what is allowed.',
    ),
    'unauthorized': (
        401,
        'Unauthorized',
        'The header Authorization must hold Bearer and a token that is valid here.',
    ),
    'entity-not-found': (
        404,
        'No such venue or person',
        'The venue or person that the parameter names does not exist.',
    ),
    'path-not-found': (404, 'No such path', 'There is nothing here; /docs shows the paths.'),
    'method-not-allowed': (
        405,
        'Method not allowed',
        'The path does not take this method; the header Allow lists those it takes.',
    ),
    'body-too-large': (413, 'Body too large', 'No request here needs a body.'),
    'headers-too-large': (
        431,
        'Headers too large',
        'The request line and the headers together are too long.',
    ),
    'internal-error': (
        500,
        'Internal error',
        'The service failed; its log says why, under the requestId.',
    ),
    'not-implemented': (501, 'Not implemented', 'The transfer coding is not supported.'),
    'database-unavailable': (
        503,
        'Database unavailable',
        'The database cannot be reached now; try again after the seconds in Retry-After.',
    ),
    'overloaded': (
        503,
        'Overloaded',
        'Too many requests are in progress; try again after the seconds in Retry-After.',
    ),
    'statement-timeout': (
        504,
        'Timeout',
        'The report took longer than the statement timeout; try again later.',
    ),
}
# what falcon and waitress answer by themselves is told apart by its status alone
KINDS_BY_STATUS = {
    PROBLEMS[kind][0]: kind
    for kind in PROBLEMS
    if kind not in ('invalid-parameter', 'entity-not-found', 'overloaded')
}


class Problem(falcon.HTTPError):
    """An answer of one of the kinds in PROBLEMS.

    Args:
        kind: A key of PROBLEMS.
        detail: What is wrong with this request and what is allowed; by default, what the
            table says.
        parameter: The parameter that is to blame, if one is.
    """

    def __init__(
        self, kind: str, detail: str | None = None, *, parameter: str | None = None
    ) -> None:
        status, title, meaning = PROBLEMS[kind]
        super().__init__(status, title=title, description=detail or meaning)
        self.kind = kind
        self.parameter = parameter
        self.headers = {'Content-Type': PROBLEM_JSON, 'Cache-Control': 'no-store'}
        if status == 503:
            self.headers['Retry-After'] = str(RETRY_AFTER_S)
        if status == 401:
            self.headers['WWW-Authenticate'] = f'Bearer realm="{REALM}"'

    def body(self, id_: str) -> bytes:
        """Return the problem details object."""
        members = {
            'type': TYPE_PREFIX + self.kind,
            'title': self.title,
            'status': self.status_code,
            'detail': self.description,
            'requestId': id_,
        }
        if self.parameter is not None:
            members['parameter'] = self.parameter
        return json.dumps(members).encode()


def problem_of_status(status: int) -> Problem:
    """Return the problem for an error of falcon's or waitress's own."""
    return Problem(KINDS_BY_STATUS.get(status, 'invalid-request'))


def add_error_handlers(app: falcon.App) -> None:
    """Make an application answer every failure with a problem."""
    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, fail)
    app.add_error_handler(psycopg.OperationalError, fail_for_now)
    app.add_error_handler(psycopg.errors.QueryCanceled, time_out)


def serialize(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Write a problem, or an error of falcon's own as one."""
    problem = error if isinstance(error, Problem) else problem_of_status(error.status_code)
    req.context.problem = problem.kind
    if problem.kind == 'overloaded':
        log.warning('overloaded')
    resp.status = problem.status
    resp.set_headers(problem.headers)
    resp.data = problem.body(request_id(req))


def fail(_req: falcon.Request, _resp: falcon.Response, ex: Exception, _params) -> NoReturn:
    """Answer 500 to what nobody expected."""
    if isinstance(ex, psycopg.Error):  # its text and its traceback quote the statement
        log.error('%s: %s', type(ex).__name__, ex.diag.message_primary)
    else:
        log.error('unexpected failure', exc_info=ex)
    raise Problem('internal-error') from ex


def fail_for_now(
    _req: falcon.Request, _resp: falcon.Response, ex: psycopg.Error, _params
) -> NoReturn:
    """Answer 503 when the database cannot be used now."""
    log.warning('database unavailable: %s', type(ex).__name__)
    raise Problem('database-unavailable') from ex


def time_out(_req: falcon.Request, _resp: falcon.Response, ex: psycopg.Error, _params) -> NoReturn:
    """Answer 504 when the database cancelled the statement."""
    log.warning('statement cancelled: %s', ex.sqlstate)
    raise Problem('statement-timeout') from ex
