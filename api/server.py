"""The HTTP server: waitress around the application, until a signal ends it."""

import logging
import os
import signal
import sys

import waitress

from api.app import create_app
from api.config import ConfigError, Settings

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s')
    # a request that waits for a thread is no reason for a warning each
    logging.getLogger('waitress.queue').setLevel(logging.ERROR)
    app = create_app(settings)
    try:
        server = waitress.create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            ident=None,
        )
    except OSError as ex:
        reason = os.strerror(ex.errno) if ex.errno else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}'
        ) from ex
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    log.info('listening on http://%s:%s', server.effective_host, server.effective_port)
    server.run()
