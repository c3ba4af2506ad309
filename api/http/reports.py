"""The reports as HTTP: a SQL file's answer, passed through as the bytes that PostgreSQL made."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import falcon

from api.config import Settings
from api.database.pool import Answer
from api.database.queries import Query
from api.http.pages import ReadOnly
from api.http.parameters import http_name, read_parameters
from api.http.problems import Problem
from api.http.tracing import TracedRequest

# seconds in which a shared cache may give an old answer while it asks for a new one
STALE_S = 60


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        path: The path, with its parameters in braces.
        query: The name of its file in db/functions, without .sql.
        is_shared: Whether shared caches may keep its answers, and give them a little late.
        is_slow: Whether only few of its requests run at once, so that the other reports have
            connections.
    """

    path: str
    query: str
    is_shared: bool = False
    is_slow: bool = False


class ReportResource(ReadOnly):
    """Answers a report with its query.

    Args:
        report: The report.
        query: Its query.
        fetch: Runs the query.
        settings: How long caches may keep answers.
    """

    def __init__(
        self, report: Report, query: Query, fetch: Callable[..., Answer], settings: Settings
    ) -> None:
        self._query = query
        self._fetch = fetch
        scope = 'public' if report.is_shared and not settings.token_sha256 else 'private'
        # a benefit that a person has just used must not look available for long
        extension = [f'stale-while-revalidate={STALE_S}'] if report.is_shared else []  # RFC 5861
        self._cache_control = [scope, f'max-age={settings.cache_s}', *extension]
        self._cache_control_past = [scope, f'max-age={settings.cache_past_s}', *extension]

    def on_get(self, req: TracedRequest, resp: falcon.Response, **path: str) -> None:
        """Answer with the body of the query, or with 404 if a parameter names nothing."""
        values = read_parameters(self._query, path, req.params)
        body, missing = self._fetch(self._query, values, req.timings)
        if missing:
            name = http_name(missing)
            detail = f'There is no {name} {values[missing]}.'
            raise Problem('entity-not-found', detail, parameter=name)
        # an answer about the past changes seldom; instants in UTC as ISO 8601 sort as text
        is_past = (values.get('timestamp') or '9999') < datetime.now(UTC).isoformat()
        resp.cache_control = self._cache_control_past if is_past else self._cache_control
        resp.content_type = falcon.MEDIA_JSON
        resp.data = body
