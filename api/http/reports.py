"""The reports: each passes on the JSON bytes that its query returns."""

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

# seconds for which a shared cache may serve an expired response while it fetches a new one
STALE_S = 60


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        path: The path, with its parameters in braces.
        query: The name of its file in db/functions, without .sql.
        is_shared: Whether shared caches may store the report, and serve it for STALE_S after it
            has expired.
        is_slow: Whether the report uses the pool for slow queries.
    """

    path: str
    query: str
    is_shared: bool = False
    is_slow: bool = False


class ReportResource(ReadOnly):
    """Serves a report. `fetch` runs its query; see Pool.fetch."""

    is_cacheable = True

    def __init__(
        self, report: Report, query: Query, fetch: Callable[..., Answer], settings: Settings
    ) -> None:
        self._query = query
        self._fetch = fetch
        scope = 'public' if report.is_shared and not settings.token_sha256 else 'private'
        # a report about a person is never served late: a used benefit would look available
        stale = [f'stale-while-revalidate={STALE_S}'] if report.is_shared else []  # RFC 5861
        self._cache_control, self._cache_control_past = (
            [scope, f'max-age={max_age_s}', *(stale if max_age_s else [])]
            for max_age_s in (settings.cache_s, settings.cache_past_s)
        )

    def on_get(self, req: TracedRequest, resp: falcon.Response, **path: str) -> None:
        """Respond with the body of the query's row.

        Raises:
            Problem: A parameter is invalid, or its venue or person does not exist.
        """
        values = read_parameters(self._query, path, req.params)
        body, missing = self._fetch(self._query, values, req.timings)
        if missing:
            name = http_name(missing)
            detail = f'There is no {name} {values[missing]}.'
            raise Problem('entity-not-found', detail, parameter=name)
        timestamp = values.get('timestamp')
        is_past = timestamp is not None and datetime.fromisoformat(timestamp) < datetime.now(UTC)
        resp.cache_control = self._cache_control_past if is_past else self._cache_control
        resp.content_type = falcon.MEDIA_JSON
        resp.data = body
