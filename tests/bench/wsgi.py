"""The service's application for other WSGI servers, configured as for its own."""

from api.app import create_app
from api.config import load_settings

app = create_app(load_settings())
