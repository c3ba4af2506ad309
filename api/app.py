"""The module to read first: the routes, and how a request reaches its SQL file.

`Tracing` gives each request an id, and `BearerTokens` checks its token. For a report,
`http.reports` converts the parameters, and `database.pool` runs the SQL file in one round trip; for
a slow report, `database.slow` first coalesces identical requests. `Delivery` sets the ETag and
compresses the response. `Tracing` logs the request.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from string import Template

import falcon

from api import OPENAPI
from api.config import Settings, load_settings
from api.database.pool import Pool
from api.database.queries import Query, find_query
from api.database.slow import SlowQueries
from api.http.auth import BearerTokens
from api.http.delivery import Delivery
from api.http.pages import Metrics, Page, Root
from api.http.parameters import check_route
from api.http.problems import add_error_handlers, meanings
from api.http.readiness import Readiness
from api.http.reports import Report, ReportResource
from api.http.tracing import TracedRequest, Tracing
from api.telemetry.log import configure_logging

# to add a report, add its file to db/functions and a line here; see db/README.md
REPORTS = (
    Report('/venues/top-benefits', 'top_benefits', is_shared=True, is_slow=True),
    Report('/venues/{venueId}/available-benefits', 'available_benefits'),
    Report('/venues/{venueId}/inactivity-periods', 'inactivity_periods', is_shared=True),
)
# read at import, so that a reload that fails changes neither
CONTRACT = OPENAPI.read_bytes()
DOCS = Template(Path(__file__).with_name('docs.html').read_text())
# response headers that scripts of other origins may read, besides those that CORS always allows
EXPOSED_HEADERS = ('ETag', 'Retry-After', 'Server-Timing', 'X-Request-ID')


def load_reports(settings: Settings) -> dict[Report, Query]:
    """Load the query of every report.

    Raises:
        QueryFileError: A file or folder is missing, or the parameters of a file do not match its
            path.
    """
    reports = {report: find_query(report.query, settings.functions) for report in REPORTS}
    for report, query in reports.items():
        check_route(report.path, query)
    return reports


def create_app(
    settings: Settings | None = None,
    *,
    reports: dict[Report, Query] | None = None,
) -> falcon.App:
    """Build the WSGI application.

    Args:
        settings: The settings; read from the environment by default.
        reports: The reports and their queries; loaded by default.

    Raises:
        QueryFileError: See load_reports.
        ConfigError: A setting is wrong, or no database is configured.
    """
    settings = settings or load_settings()
    reports = reports or load_reports(settings)
    if not logging.root.handlers:  # not in a worker of ours, which configures the log itself
        configure_logging(settings.log_level, settings.log_format)
    pool = Pool(settings, settings.pool_size)
    slow = SlowQueries(Pool(settings, settings.slow_reports_at_once), settings)

    app = falcon.App(request_type=TracedRequest, middleware=[Tracing()])
    if settings.cors_origins:
        app.add_middleware(falcon.CORSMiddleware(settings.cors_origins, EXPOSED_HEADERS))
    if settings.token_sha256:
        app.add_middleware(BearerTokens(settings.token_sha256))
    app.add_middleware(Delivery(varies_by_origin=bool(settings.cors_origins)))
    add_error_handlers(app)

    for report, query in reports.items():
        fetch = slow.fetch if report.is_slow else pool.fetch
        app.add_route(report.path, ReportResource(report, query, fetch, settings))

    app.add_route('/live', Page(b'{"status": "live"}', is_public=True))
    app.add_route('/ready', Readiness(pool.ping))
    app.add_route('/metrics', Metrics())
    app.add_route('/openapi.json', Page(CONTRACT, is_public=True, is_cacheable=True))
    app.add_route('/', Root([report.path for report in reports]))
    for path, meaning in meanings().items():
        app.add_route(path, Page(meaning, is_public=True))
    body_class = 'with-tokens' if settings.token_sha256 else 'no-tokens'
    html = DOCS.substitute(body_class=body_class).encode()
    app.add_route('/docs', Page(html, falcon.MEDIA_HTML, is_public=True, is_cacheable=True))
    # public, since BearerTokens checks only resources
    app.add_static_route('/docs/static', Path(find_spec('swagger_ui').origin).with_name('static'))
    return app
