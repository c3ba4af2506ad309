"""Every answer that is not a report: one table of problems, in one shape (RFC 9457)."""

import json
import logging
from typing import NoReturn

import falcon
import psycopg

log = logging.getLogger(__name__)

PROBLEM_JSON = 'application/problem+json'
RETRY_AFTER_S = 1

# kind: (status, title, what the detail says where the code that meets it says no more)
PROBLEMS = {
    'invalid-request': (400, 'Invalid request', 'the request cannot be understood'),
    'invalid-parameter': (400, 'Invalid parameter', ''),
    'entity-not-found': (404, 'No such venue or person', ''),
    'path-not-found': (
        404,
        'No such path',
        'there is nothing here; README.md lists the paths',
    ),
    'method-not-allowed': (
        405,
        'Method not allowed',
        'the header Allow lists the methods',
    ),
    'internal-error': (500, 'Internal error', 'the service failed; its log says why'),
    'database-unavailable': (
        503,
        'Database unavailable',
        'the database cannot be reached; try again in a moment',
    ),
    'statement-timeout': (504, 'Timeout', 'the database took too long to answer'),
}
FALCON_KINDS = {404: 'path-not-found', 405: 'method-not-allowed'}


class Problem(falcon.HTTPError):
    """An answer of one of the kinds in PROBLEMS.

    Args:
        kind: A key of PROBLEMS.
        detail: What is wrong with this request and what is allowed.
        parameter: The parameter that is to blame, if one is.
    """

    def __init__(
        self, kind: str, detail: str | None = None, *, parameter: str | None = None
    ) -> None:
        status, title, standard_detail = PROBLEMS[kind]
        headers = {'Retry-After': str(RETRY_AFTER_S)} if status == 503 else None
        detail = detail or standard_detail
        super().__init__(status, title=title, description=detail, headers=headers)
        self.parameter = parameter


def add_error_handlers(app: falcon.App) -> None:
    """Make an application answer every failure with a problem."""
    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, fail)
    app.add_error_handler(psycopg.OperationalError, fail_for_now)
    app.add_error_handler(psycopg.errors.QueryCanceled, time_out)


def serialize(_req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    """Write a problem, or an error of falcon's own as one."""
    if not isinstance(error, Problem):
        error = Problem(FALCON_KINDS.get(error.status_code, 'invalid-request'))
        resp.status = error.status
    members = {
        'title': error.title,
        'status': error.status_code,
        'detail': error.description,
    }
    if error.parameter:
        members['parameter'] = error.parameter
    resp.content_type = PROBLEM_JSON
    resp.data = json.dumps(members).encode()


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
