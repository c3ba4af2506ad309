"""The page to read first: what is served where, and how a request comes to its SQL file.

A request gets its id from `Tracing` and passes `BearerTokens`. For a report, `http.reports` reads
the parameters, and `database.pool` runs the file of `db/functions` in one round trip; a slow report
goes through `database.slow` first. `Delivery` tags the answer, and `Tracing` logs it.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import falcon
from prometheus_client import CONTENT_TYPE_LATEST

from api import OPENAPI
from api.config import Settings, load_settings
from api.database.pool import Pool
from api.database.queries import Query, find_query
from api.database.slow import SlowQueries
from api.http.auth import BearerTokens
from api.http.cors import EXPOSED_HEADERS, ExactCors
from api.http.delivery import Delivery
from api.http.pages import Page, Root, SwaggerUi
from api.http.parameters import check_route
from api.http.problems import add_error_handlers, meanings
from api.http.readiness import Readiness
from api.http.reports import Report, ReportResource
from api.http.tracing import TracedRequest, Tracing
from api.telemetry.log import configure_logging
from api.telemetry.metrics import exposition

# a new report is a file in db/functions and a line here; db/README.md tells the rest
REPORTS = (
    Report('/venues/top-benefits', 'top_benefits', is_shared=True, is_slow=True),
    Report('/venues/{venueId}/available-benefits', 'available_benefits'),
    Report('/venues/{venueId}/inactivity-periods', 'inactivity_periods', is_shared=True),
)

DOCS = Path(__file__).with_name('docs.html')


def load_reports(settings: Settings) -> dict[Report, Query]:
    """Load the query of every report.

    Raises:
        QueryFileError: A file or folder is missing, or a file does not fit its path.
    """
    reports = {report: find_query(report.query, settings.functions) for report in REPORTS}
    for report, query in reports.items():
        check_route(report.path, query)
    return reports


def create_app(
    settings: Settings | None = None,
    *,
    reports: dict[Report, Query] | None = None,
    before_waiting: Callable[..., None] = lambda **_: None,
) -> falcon.App:
    """Build the WSGI application.

    Args:
        settings: The service's settings; by default those of the environment.
        reports: The reports and their queries; by default loaded now.
        before_waiting: Called by a thread that is about to wait; with is_idle=True if it waits for
            something other than the database.

    Raises:
        QueryFileError: A report's file is missing or does not fit its path.
        ConfigError: A setting is wrong, or there is no database.
    """
    settings = settings or load_settings()
    reports = reports or load_reports(settings)
    if not logging.root.handlers:
        configure_logging(settings.log_level, settings.log_format)
    pool = Pool(settings, settings.pool_size, before_waiting)
    let_others_answer = partial(before_waiting, is_idle=True)
    slow_pool = Pool(settings, settings.slow_reports_at_once, let_others_answer)
    slow = SlowQueries(slow_pool, settings, let_others_answer)

    app = falcon.App(request_type=TracedRequest, middleware=[Tracing()])
    if settings.cors_origins:
        app.add_middleware(ExactCors(settings.cors_origins, EXPOSED_HEADERS))
    if settings.token_sha256:
        app.add_middleware(BearerTokens(settings.token_sha256))
    app.add_middleware(Delivery())
    add_error_handlers(app)

    for report, query in reports.items():
        fetch = slow.fetch if report.is_slow else pool.fetch
        app.add_route(report.path, ReportResource(report, query, fetch, settings))

    app.add_route('/live', Page(body=lambda: b'{"status": "live"}'))
    app.add_route('/ready', Readiness(pool.ping))
    metrics = Page(body=exposition, content_type=CONTENT_TYPE_LATEST, is_public=False)
    app.add_route('/metrics', metrics)
    contract = OPENAPI.read_bytes()
    app.add_route('/openapi.json', Page(body=lambda: contract, cache_control='no-cache'))
    app.add_route('/', Root([report.path for report in reports]))
    for path, meaning in meanings().items():
        app.add_route(path, Page(lambda body=meaning: body))
    page = DOCS.read_bytes()
    if not settings.token_sha256:
        page = page.replace(b'<body>', b'<body class="no-tokens">')
    app.add_route('/docs', Page(lambda: page, 'no-cache', falcon.MEDIA_HTML))

    def to_docs() -> bytes:
        raise falcon.HTTPFound('../docs')

    app.add_route('/docs/', Page(to_docs))  # the relative links of the page are for /docs
    app.add_route('/docs/static/{name}', SwaggerUi())
    return app
