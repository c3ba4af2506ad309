"""The HTTP resources: the reports, their documentation, and what those who operate it ask."""

from datetime import UTC, datetime

import falcon
from prometheus_client import CONTENT_TYPE_LATEST

from api.bulkhead import Bulkhead
from api.config import Settings
from api.database import Database
from api.errors import PROBLEMS, TYPE_PREFIX, Problem
from api.functions import Function
from api.metrics import Metrics
from api.parameters import http_name, read_parameters


class Report:
    """A SQL function's answer, passed through as the bytes that PostgreSQL made."""

    needs_token = True

    def __init__(self, bulkhead: Bulkhead, function: Function, settings: Settings) -> None:
        self._bulkhead = bulkhead
        self._function = function
        about_a_person = any(bind.name == 'person_id' for bind in function.binds)
        scope = 'private' if about_a_person or settings.token_sha256 else 'public'
        # what a person has just used must not look available for long, so that is never stale
        stale_s = 0 if about_a_person else settings.cache_stale_seconds
        extension = [f'stale-while-revalidate={stale_s}'] if stale_s else []  # RFC 5861
        self._cache_control = [scope, f'max-age={settings.cache_seconds}', *extension]
        self._cache_control_past = [scope, f'max-age={settings.cache_past_seconds}', *extension]

    def on_get(self, req: falcon.Request, resp: falcon.Response, **path: str) -> None:
        """Answer with the function's body, or 404 when one of the parameters names nothing."""
        values = read_parameters(self._function, path, req.params)
        answer = self._bulkhead.fetch(self._function, values, req.context.timings)
        if answer.missing:
            name = http_name(answer.missing)
            detail = f'There is no {name} {values[answer.missing]}.'
            raise Problem('entity-not-found', detail, parameter=name)
        is_past = (values.get('timestamp') or '9999') < datetime.now(UTC).isoformat()
        resp.cache_control = self._cache_control_past if is_past else self._cache_control
        resp.content_type = falcon.MEDIA_JSON
        resp.data = answer.body

    on_head = on_get


class Document:
    """JSON that does not change while the process runs."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the document."""
        resp.cache_control = ['no-cache']
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._body

    on_head = on_get


class Entrance:
    """The root: sends a browser to the documentation, and tells a program where things are."""

    def __init__(self, reports: list[str]) -> None:
        self._links = {'documentation': '/docs', 'openapi': '/openapi.json', 'reports': reports}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer by what the client prefers."""
        resp.vary = ['Accept']
        if req.client_prefers([falcon.MEDIA_JSON, falcon.MEDIA_HTML]) == falcon.MEDIA_HTML:
            resp.status = falcon.HTTP_FOUND
            resp.location = '/docs'
        else:
            resp.media = self._links

    on_head = on_get


class ProblemKind:
    """What a problem's type means."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Answer with the kind's row of the table."""
        if kind not in PROBLEMS:
            raise falcon.HTTPRouteNotFound
        status, title, meaning = PROBLEMS[kind]
        resp.media = {
            'type': TYPE_PREFIX + kind,
            'title': title,
            'status': status,
            'meaning': meaning,
        }

    on_head = on_get


class Live:
    """Whether the process runs; the database is not asked."""

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200."""
        resp.cache_control = ['no-store']
        resp.media = {'status': 'live'}

    on_head = on_get


class Exposition:
    """The metrics for Prometheus."""

    needs_token = True

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the metrics of all workers."""
        resp.cache_control = ['no-store']
        resp.content_type = CONTENT_TYPE_LATEST
        resp.text = self._metrics.exposition().decode()

    on_head = on_get


class Ready:
    """Whether a report could be answered now."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200 when the database answers in time, else 503."""
        if not self._database.answers():
            raise Problem('database-unavailable')
        resp.cache_control = ['no-store']
        resp.media = {'status': 'ready'}

    on_head = on_get
