"""The page to read first: what is served where, and how a request comes to its SQL file.

On its way in, a request gets its id from `Tracing` and is let through by `BearerTokens`. For a
report, `http.reports` reads the parameters, `database.bulkhead` decides whether it runs, and
`database.sessions` runs the file of `db/functions` in one round trip. On its way out, `Delivery`
tags the answer and `Tracing` tells how it went.
"""

from collections.abc import Callable
from pathlib import Path

import falcon
from prometheus_client import CONTENT_TYPE_LATEST

from api import OPENAPI
from api.config import ConfigError, Settings, load_settings
from api.database.bulkhead import Bulkhead
from api.database.functions import FOLDER, Function, FunctionFileError, load_function
from api.database.probe import Probe
from api.database.sessions import Sessions
from api.http.auth import BearerTokens
from api.http.cors import EXPOSED_HEADERS, ExactCors
from api.http.delivery import Delivery
from api.http.pages import Entrance, Page, SwaggerUi
from api.http.parameters import check_route
from api.http.problems import add_error_handlers, meanings
from api.http.reports import Report, ReportResource
from api.telemetry.metrics import exposition
from api.telemetry.tracing import TracedRequest, Tracing

# a new report is a file in db/functions and a line here; db/README.md tells the rest
REPORTS = (
    Report('/venues/top-benefits', 'top_benefits', is_shared=True, is_slow=True),
    Report('/venues/{venueId}/available-benefits', 'available_benefits'),
    Report('/venues/{venueId}/inactivity-periods', 'inactivity_periods', is_shared=True),
)

DOCS = Path(__file__).with_name('docs.html')


def load_reports(settings: Settings) -> dict[Report, Function]:
    """Load the file of every report.

    Raises:
        ConfigError: The settings limit a report that is not there, or may limit none.
        FunctionFileError: A file or folder is missing, or a file does not fit its path.
    """
    if unknown := settings.report_timeouts_s.keys() - {report.function for report in REPORTS}:
        known = ', '.join(report.function for report in REPORTS)
        raise ConfigError(f'report_timeouts_s: {min(unknown)} is none of {known}')
    if settings.report_timeouts_s and not settings.session_settings:
        raise ConfigError('report_timeouts_s: must be empty where session_settings is false')
    for folder in settings.functions:
        try:
            Path(folder, '..').stat()  # for which one must be allowed to look into the folder
        except OSError as ex:
            raise FunctionFileError(f'{folder}: {ex.strerror}') from ex
    return {report: load_report(report, settings) for report in REPORTS}


def load_report(report: Report, settings: Settings) -> Function:
    """Load the file of a report; see load_reports."""
    function = load_function(function_path(report, settings))
    check_route(report.path, function)
    ours = load_function(FOLDER / function.path.name)
    if set(function.binds) != set(ours.binds):
        raise FunctionFileError(f'{function.path}: must have the parameters of {ours.path}')
    return function


def function_path(report: Report, settings: Settings) -> Path:
    """Return the place of the file of a report: in the first folder that has it."""
    folders = [*settings.functions, FOLDER]
    paths = [Path(folder, f'{report.function}.sql') for folder in folders]
    return next((path for path in paths if path.exists()), paths[-1])


def create_app(
    settings: Settings | None = None,
    *,
    reports: dict[Report, Function] | None = None,
    before_waiting: Callable[[], None] = lambda: None,
) -> falcon.App:
    """Build the WSGI application.

    Args:
        settings: The service's settings; by default those of the environment.
        reports: What is served, and the loaded files; by default loaded now.
        before_waiting: Called by a thread that is about to wait for something.

    Raises:
        FunctionFileError: A report's file is missing or does not fit its path.
        ConfigError: A setting is wrong, or there is no database.
    """
    settings = settings or load_settings()
    reports = reports or load_reports(settings)
    sessions = Sessions(settings, before_waiting)

    app = falcon.App(request_type=TracedRequest, middleware=[Tracing()])
    if settings.cors_origins:
        app.add_middleware(ExactCors(settings.cors_origins, EXPOSED_HEADERS))
    if settings.token_sha256:
        app.add_middleware(BearerTokens(settings.token_sha256))
    app.add_middleware(Delivery(settings.gzip_min_bytes))
    add_error_handlers(app)

    bulkhead = Bulkhead(sessions, settings, before_waiting)
    for report, function in reports.items():
        app.add_route(report.path, ReportResource(report, function, bulkhead, settings))

    probe = Probe(sessions.ping, before_waiting)

    def ready() -> bytes:
        probe.ping()
        return b'{"status": "ready"}'

    app.add_route('/live', Page(body=lambda: b'{"status": "live"}'))
    app.add_route('/ready', Page(body=ready))
    metrics = Page(body=exposition, content_type=CONTENT_TYPE_LATEST, needs_token=True)
    app.add_route('/metrics', metrics)
    contract = OPENAPI.read_bytes()
    app.add_route('/openapi.json', Page(body=lambda: contract, cache_control='no-cache'))
    app.add_route('/', Entrance([report.path for report in reports]))
    for path, meaning in meanings().items():
        app.add_route(path, Page(lambda body=meaning: body))
    page = DOCS.read_bytes()
    if not settings.token_sha256:
        page = page.replace(b'<body>', b'<body class="no-tokens">')
    for path in ('/docs', '/docs/'):
        app.add_route(path, Page(lambda: page, 'no-cache', falcon.MEDIA_HTML))
    app.add_route('/docs/static/{name}', SwaggerUi())
    return app
