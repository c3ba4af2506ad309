"""`python -m api.server.dev` serves edited files: .sql on the next request, .py a second later."""

import logging
import multiprocessing
import signal
import socket
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

import falcon
from watchfiles import PythonFilter, watch

from api.app import function_path, load_report, load_reports
from api.config import ConfigError, Settings, load_settings
from api.database.functions import FunctionFileError
from api.http.reports import Report, ReportResource
from api.server.check import NotCheckedError, check_database, tell, warn
from api.server.listener import Share, listen, url_of
from api.server.process import keep_standard_descriptors
from api.server.worker import Worker
from api.telemetry.log import configure_logging
from api.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

API = Path(__file__).parents[1]
# a worker that has not started by then does not
START_LIMIT_S = 30
# beyond shutdown_timeout_s, in which a worker ends by itself
STOP_SPARE_S = 1
# the new worker is a Python of its own, which has read the files as they are now
spawning = multiprocessing.get_context('spawn')


class LiveFiles:
    """Falcon middleware that loads a report's file anew when it has changed; a broken one stays.

    Args:
        settings: Where the database is, which judges the file.
        reports: What is served.
    """

    def __init__(self, settings: Settings, reports: list[Report]) -> None:
        self._settings = settings
        self._seen = {report: self._changed(report) for report in reports}
        self._lock = Lock()

    def process_resource(
        self, _req: falcon.Request, _resp: falcon.Response, resource: object, _params: dict
    ) -> None:
        """See to the file of what is asked for (called by falcon before each request)."""
        if isinstance(resource, ReportResource):
            with self._lock:
                self._see_to(resource)

    def _see_to(self, resource: ReportResource) -> None:
        report, changed = resource.report, self._changed(resource.report)
        if changed == self._seen[report]:
            return
        path = changed[0]
        try:
            function = load_report(report, self._settings)
            check_database(self._settings, [function])
        except NotCheckedError as ex:  # asked again on the next request
            log.warning('%s changed, the old version stays: %s', path, ex)
            return
        except FunctionFileError as ex:
            log.error('%s changed, the old version stays: %s', path, ex)
        else:
            resource.function = function
            log.info('%s changed, the new version is live', path)
        self._seen[report] = changed

    def _changed(self, report: Report) -> tuple[Path, int]:
        """Return a report's file, and when it was changed in nanoseconds; 0 if it is gone."""
        path = function_path(report, self._settings)
        return path, path.stat().st_mtime_ns if path.exists() else 0


def main() -> int:
    """Serve until SIGINT or SIGTERM."""
    keep_standard_descriptors()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        logging.getLogger('watchfiles').setLevel(logging.WARNING)
        listener = listen(settings)
    except ConfigError as ex:
        print(f'error: {ex}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    limit_s = settings.shutdown_timeout_s + STOP_SPARE_S
    with listener:
        server = None
        try:
            server = start(listener)
            if not server:
                return 1
            log.info('listening on %s', url_of(listener))
            for changes in watch(API, watch_filter=PythonFilter()):
                names = ', '.join(sorted(Path(path).name for _, path in changes))
                if following := start(listener):
                    stop(server, limit_s)
                    server = following
                    log.info('%s changed, the new version is live', names)
                else:
                    log.error('%s changed, the old version stays', names)
        except KeyboardInterrupt:
            pass
        finally:
            if server:
                stop(server, limit_s)
    return 0


def start(listener: socket.socket) -> BaseProcess | None:
    """Start a worker on the listening socket beside the one that is there.

    Returns:
        Its process once it serves; None if it does not, and has said why.
    """
    is_ready, say_ready = spawning.Pipe(duplex=False)
    server = spawning.Process(target=serve, args=(listener, say_ready), daemon=True)
    server.start()
    say_ready.close()
    try:
        if is_ready.poll(START_LIMIT_S):
            is_ready.recv()
            return server
    except EOFError:  # it ends by itself
        server.join(STOP_SPARE_S)
    server.kill()
    return None


def stop(server: BaseProcess, limit_s: float) -> None:
    """End a worker when it has answered who came to it, or after some seconds."""
    server.terminate()
    server.join(limit_s)
    server.kill()


def serve(listener: socket.socket, say_ready: Connection) -> None:
    """Serve until SIGTERM, or until the parent is gone (what happens in the other process)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    try:
        reports = load_reports(settings)
        warn(check_database(settings, reports.values()))
    except (ConfigError, FunctionFileError, NotCheckedError) as ex:
        sys.exit(f'error: {ex}')
    tell(reports)
    worker = Worker(settings, reports, Share.whole(listener), Metrics(), number=1)
    worker.application.add_middleware(LiveFiles(settings, list(reports)))
    say_ready.send(True)
    worker.run(multiprocessing.parent_process().is_alive)
    logging.shutdown()


if __name__ == '__main__':
    sys.exit(main())
