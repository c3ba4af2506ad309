"""The service as a gunicorn application: gunicorn runs the processes as the settings say."""

import importlib
import logging
import mmap
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.util import make_fail_app
from prometheus_client.multiprocess import mark_process_dead

from api.app import load_reports
from api.config import Settings, load_settings
from api.database.connection import connection_parameters
from api.database.queries import FOLDER, Query
from api.http.reports import Report
from api.server.check import NotCheckedError, check_database
from api.server.threads import hand_over_loop
from api.server.worker import WaitressWorker
from api.telemetry.log import configure_logging
from api.telemetry.metrics import FOLDER_VARIABLE

log = logging.getLogger(__name__)

API = Path(__file__).parents[1]
LOOPBACK = ('127.0.0.1', '::1', 'localhost')
# slots for the connection counts of workers, which take them in turns: many more than workers, so
# that two of them hardly ever share one
SLOTS = 256


class ServiceLogger(Logger):
    """gunicorn's logger; its lines go to the service's log."""

    def setup(self, cfg: object) -> None:
        """Let the root logger write all lines (called by gunicorn)."""
        self.cfg = cfg
        self.error_log.propagate = True


class Service(Application):
    """gunicorn, configured by the service's own settings.

    Attributes:
        settings: The service's settings.
        connection_counts: How many connections each worker has, in memory that all workers share.

    Raises:
        ConfigError: A setting is wrong.
        QueryFileError: A SQL file does not fit its route.
    """

    def __init__(self) -> None:
        self.settings, self._reports = load_version()
        self.connection_counts = memoryview(mmap.mmap(-1, SLOTS * 4)).cast('i')
        super().__init__()

    def init(self, *_: object) -> dict[str, object]:
        """Return gunicorn's settings (called by gunicorn). GUNICORN_CMD_ARGS overrides them."""
        settings = self.settings
        host = f'[{settings.host}]' if ':' in settings.host else settings.host
        return {
            'bind': f'{host}:{settings.port}',
            'workers': settings.workers or len(os.sched_getaffinity(0)),
            'worker_class': 'api.server.worker.WaitressWorker',
            'timeout': settings.worker_timeout_s,
            'graceful_timeout': settings.shutdown_timeout_s,
            'worker_tmp_dir': os.environ[FOLDER_VARIABLE],
            'control_socket_disable': True,
            'logger_class': ServiceLogger,
            'reload_extra_files': [f'{API}/**/*.py']
            + [f'{folder}/*.sql' for folder in [*settings.functions, FOLDER]],
            'on_starting': lambda _arbiter: check(self.settings, self._reports),
            'child_exit': release_slot,
        }

    def load(self) -> Callable:
        """Return the WSGI application (called by gunicorn in each worker)."""
        if self.cfg.reload:  # a developer has saved a file
            try:
                self._renew()
            except Exception as ex:
                log.error('the new version cannot be loaded', exc_info=ex)
                return make_fail_app(traceback.format_exc())
        return importlib.import_module('api.app').create_app(
            self.settings, reports=self._reports, before_waiting=hand_over_loop
        )

    def reload(self) -> None:
        """Load code, settings and SQL files again (called by gunicorn on SIGHUP).

        If that fails, the old version stays. gunicorn then replaces the workers.
        """
        try:
            self._renew()
        except Exception as ex:  # noqa: BLE001 - the service goes on, whatever it is
            log.error('the new version cannot be loaded, the old one stays: %s', ex)
        Application.reload(self)

    def _renew(self) -> None:
        """Import the service's modules again, and become an object of the new version.

        gunicorn keeps this object as long as it runs, so another one cannot take its place.
        """
        old = {name: sys.modules[name] for name in list(sys.modules) if name.split('.')[0] == 'api'}
        for name in old:
            del sys.modules[name]
        try:
            new = importlib.import_module(__name__)
            settings, reports = new.load_version()
            new.check(settings, reports)
        except BaseException:
            sys.modules.update(old)
            raise
        self.__class__, self.settings, self._reports = new.Service, settings, reports


def load_version() -> tuple[Settings, dict[Report, Query]]:
    """Read the settings and the SQL files; see Service for what it raises."""
    settings = load_settings()
    reports = load_reports(settings)
    connection_parameters(settings)  # a start without any database is a mistake
    configure_logging(settings.log_level, settings.log_format)
    return settings, reports


def check(settings: Settings, reports: dict[Report, Query]) -> None:
    """Check that the database can run every SQL file, and log what to mend.

    A database that cannot be reached does not prevent a start: it may come later.

    Raises:
        QueryFileError: The database refuses a file.
    """
    try:
        for warning in check_database(settings, reports.values()):
            log.warning('%s', warning)
    except NotCheckedError as ex:
        log.warning('%s', ex)
    if settings.host not in LOOPBACK and not settings.token_sha256:
        log.warning('everybody who reaches %s may read the reports: no token is set', settings.host)
    for report, query in reports.items():
        log.info('report', {'route': report.path, 'file': query.path})


def release_slot(arbiter: Arbiter, worker: WaitressWorker) -> None:
    """Forget the connections and the gauges of a worker that has ended."""
    counts = arbiter.app.connection_counts
    counts[worker.age % len(counts)] = 0
    mark_process_dead(worker.pid)
