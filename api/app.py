"""The WSGI application: its routes, and what is wired to them."""

from collections.abc import Callable
from pathlib import Path

import falcon
import swagger_ui

from api.auth import BearerTokens
from api.bulkhead import Bulkhead
from api.config import Settings, load_settings
from api.database import Database
from api.delivery import Delivery
from api.errors import TYPE_PREFIX, add_error_handlers
from api.functions import Function, load_functions
from api.metrics import Metrics
from api.parameters import check_route
from api.resources import Document, Entrance, Exposition, Live, ProblemKind, Ready, Report
from api.tracing import Tracing

# The reports: a path, and the file in db/functions that answers it.
REPORTS = {
    '/venues/top-benefits': 'top_benefits',
    '/venues/{venueId}/available-benefits': 'available_benefits',
    '/venues/{venueId}/inactivity-periods': 'inactivity_periods',
}

OPENAPI = Path(__file__).with_name('openapi.json')
# of Swagger UI, as JavaScript: our own document, and no badge from a validator on the internet
DOCS_PARAMETERS = {
    'urls': '[{url: "/openapi.json", name: "Membership-benefits API"}]',
    'validatorUrl': 'null',
}
# beyond what every script in a browser may read
EXPOSED_HEADERS = ['ETag', 'Retry-After', 'Server-Timing', 'X-Request-ID']


class ExactCors(falcon.CORSMiddleware):
    """CORS for the listed origins, telling caches that the answer depends on the origin."""

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Add the CORS headers."""
        super().process_response(req, resp, resource, req_succeeded)
        resp.append_header('Vary', 'Origin')


def load_reports() -> dict[str, Function]:
    """Load the file of every report, by path.

    Raises:
        FunctionFileError: A file is missing or does not fit its path.
    """
    functions = load_functions(REPORTS.values())
    for path, name in REPORTS.items():
        check_route(path, functions[name])
    return {path: functions[name] for path, name in REPORTS.items()}


def create_app(
    settings: Settings | None = None,
    database: Database | None = None,
    metrics: Metrics | None = None,
    before_waiting: Callable[[], None] = lambda: None,
) -> falcon.App:
    """Build the WSGI application.

    Args:
        settings: The service's settings; by default those of the environment.
        database: Where the reports come from; by default the one that the settings name,
            opened.
        metrics: What `/metrics` shows; by default this application's own.
        before_waiting: Called by a thread that is about to wait for others.

    Raises:
        FunctionFileError: A report's file is missing or does not fit its path.
        ConfigError: The settings name no database.
    """
    settings = settings or load_settings()
    metrics = metrics or Metrics()
    if database is None:
        database = Database(settings, metrics=metrics)
        database.open()
    # the last one sees an answer first
    app = falcon.App(middleware=[Tracing(metrics)])
    if settings.cors_origins:
        app.add_middleware(ExactCors(settings.cors_origins, EXPOSED_HEADERS))
    if settings.token_sha256:
        app.add_middleware(BearerTokens(settings.token_sha256))
    app.add_middleware(Delivery(settings.gzip_min_bytes))
    add_error_handlers(app)
    bulkhead = Bulkhead(database, settings, metrics, before_waiting)
    for path, function in load_reports().items():
        app.add_route(path, Report(bulkhead, function, settings))
    app.add_route('/live', Live())
    app.add_route('/ready', Ready(database))
    app.add_route('/metrics', Exposition(metrics))
    app.add_route('/', Entrance(list(REPORTS)))
    app.add_route('/openapi.json', Document(OPENAPI.read_bytes()))
    app.add_route(f'{TYPE_PREFIX}{{kind}}', ProblemKind())
    swagger_ui.falcon_api_doc(
        app,
        config_rel_url='/openapi.json',
        url_prefix='/docs',
        title='Membership-benefits API',
        parameters=DOCS_PARAMETERS,
    )
    return app
