"""The WSGI application: its routes, and what is wired to them."""

import falcon

from api.config import Settings
from api.database import Database
from api.errors import add_error_handlers
from api.functions import load_functions
from api.parameters import check_route
from api.resources import Live, Ready, Report

# The reports: a path, and the file in db/functions that answers it.
REPORTS = {
    '/venues/top-benefits': 'top_benefits',
    '/venues/{venueId}/available-benefits': 'available_benefits',
    '/venues/{venueId}/inactivity-periods': 'inactivity_periods',
}


def create_app(settings: Settings) -> falcon.App:
    """Build the application and start connecting to the database.

    Raises:
        FunctionFileError: A report's file is missing or does not fit its path.
    """
    functions = load_functions(REPORTS.values())
    database = Database(settings)
    app = falcon.App()
    add_error_handlers(app)
    for path, name in REPORTS.items():
        check_route(path, functions[name])
        app.add_route(path, Report(database, functions[name]))
    app.add_route('/live', Live())
    app.add_route('/ready', Ready(database))
    database.open()
    return app
