"""The reports as HTTP: a SQL file's answer, passed through as the bytes that PostgreSQL made."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import falcon

from api.config import Settings
from api.database.bulkhead import Bulkhead
from api.database.functions import Function
from api.http.pages import ReadOnly
from api.http.parameters import http_name, read_parameters
from api.http.problems import Problem
from api.telemetry.tracing import TracedRequest


@dataclass(frozen=True)
class Report:
    """What is served where, and how.

    Attributes:
        path: The path, with its parameters in braces.
        function: The file in db/functions that answers it, without .sql.
        is_shared: Whether caches may keep its answers for others, and give them a little late.
        is_slow: Whether it may not take all connections: few of these run at once.
    """

    path: str
    function: str
    is_shared: bool = False
    is_slow: bool = False


class ReportResource(ReadOnly):
    """Answers a report with its loaded file, by way of the bulkhead."""

    needs_token = True

    def __init__(
        self, report: Report, function: Function, bulkhead: Bulkhead, settings: Settings
    ) -> None:
        self.report = report
        self.function = function
        self._fetch = partial(bulkhead.fetch, is_slow=report.is_slow)
        scope = 'public' if report.is_shared and not settings.token_sha256 else 'private'
        # what a person has just used must not look available for long, so that is never stale
        stale_s = settings.cache_stale_seconds if report.is_shared else 0
        extension = [f'stale-while-revalidate={stale_s}'] if stale_s else []  # RFC 5861
        self._cache_control = [scope, f'max-age={settings.cache_seconds}', *extension]
        self._cache_control_past = [scope, f'max-age={settings.cache_past_seconds}', *extension]

    def on_get(self, req: TracedRequest, resp: falcon.Response, **path: str) -> None:
        """Answer with the function's body, or 404 when one of the parameters names nothing."""
        function = self.function
        values = read_parameters(function, path, req.params)
        body, missing = self._fetch(function, values, req.timings)
        if missing:
            name = http_name(missing)
            detail = f'There is no {name} {values[missing]}.'
            raise Problem('entity-not-found', detail, parameter=name)
        # an answer about the past changes seldom; instants in UTC as ISO 8601 sort as text
        is_past = (values.get('timestamp') or '9999') < datetime.now(UTC).isoformat()
        resp.cache_control = self._cache_control_past if is_past else self._cache_control
        resp.content_type = falcon.MEDIA_JSON
        resp.data = body
