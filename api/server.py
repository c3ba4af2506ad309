"""The HTTP server: waitress around the application, until a signal ends it."""

import logging
import os
import signal
import sys

import falcon
import waitress
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from api.app import create_app
from api.config import ConfigError, Settings
from api.errors import problem_of_status
from api.tracing import configure_logging, new_request_id

log = logging.getLogger(__name__)


# no request here needs much; a longer one is refused before it is read
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024


class ProblemTask(ErrorTask):
    """Answers what never reaches the application, such as malformed HTTP, with a problem."""

    def execute(self) -> None:
        """Write the problem and close the connection."""
        problem = problem_of_status(self.request.error.code)
        request_id = new_request_id()
        body = problem.body(request_id)
        self.status = falcon.code_to_http_status(problem.status)
        self.response_headers.extend([*problem.headers.items(), ('X-Request-ID', request_id)])
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        log.info('refused', extra={'request_id': request_id, 'status': problem.status_code})


class Channel(HTTPChannel):
    """A client's connection."""

    error_task_class = ProblemTask


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logging(settings.log_level, settings.log_format)
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
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_BODY_BYTES,
        )
        server.channel_class = Channel
    except OSError as ex:
        reason = os.strerror(ex.errno) if ex.errno else ex.strerror
        raise ConfigError(
            f'cannot listen on {settings.host} port {settings.port}: {reason}'
        ) from ex
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    log.info('listening on http://%s:%s', server.effective_host, server.effective_port)
    server.run()
