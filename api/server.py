"""The HTTP server: waitress around the application, until a signal ends it."""

import logging
import signal
import sys

import waitress

from api.app import create_app
from api.config import Settings

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s')
    # a request that waits for a thread is no reason for a warning each
    logging.getLogger('waitress.queue').setLevel(logging.ERROR)
    app = create_app(settings)
    server = waitress.create_server(
        app, host=settings.host, port=settings.port, threads=settings.threads, ident=None
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    log.info('listening on http://%s:%s', server.effective_host, server.effective_port)
    server.run()
