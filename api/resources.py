"""The HTTP resources: the reports, and what a supervisor asks."""

import falcon

from api.database import Database
from api.errors import Problem
from api.functions import Function
from api.parameters import http_name, read_parameters

READY_TIMEOUT_S = 2.0


class Report:
    """A SQL function's answer, passed through as the bytes that PostgreSQL made."""

    def __init__(self, database: Database, function: Function) -> None:
        self._database = database
        self._function = function

    def on_get(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        """Answer with the function's body, or 404 when one of the parameters names nothing."""
        values = read_parameters(self._function, path, req.params)
        answer = self._database.fetch(self._function, values)
        if answer.missing:
            name = http_name(answer.missing)
            raise Problem(
                'entity-not-found',
                f'there is no {name} {values[answer.missing]}',
                parameter=name,
            )
        resp.content_type = falcon.MEDIA_JSON
        resp.data = answer.body

    on_head = on_get


class Live:
    """Whether the process runs; the database is not asked."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200."""
        resp.media = {'status': 'live'}

    on_head = on_get


class Ready:
    """Whether a report could be answered now."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200 when the database answers in time, else 503."""
        if not self._database.answers(timeout_s=READY_TIMEOUT_S):
            raise Problem('database-unavailable')
        resp.media = {'status': 'ready'}

    on_head = on_get
