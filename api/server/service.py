"""The service as a gunicorn application: its configuration, the check at the start, the reload."""

import importlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from prometheus_client.multiprocess import mark_process_dead
from psycopg import Error

from api.app import load_reports
from api.config import load_settings
from api.database.connection import connection_parameters, in_one_line
from api.database.queries import FOLDER
from api.server.check import check_database
from api.server.http_server import connection_counts
from api.server.threads import hand_over_loop
from api.server.worker import WaitressWorker
from api.telemetry.log import configure_logging
from api.telemetry.metrics import FOLDER_VARIABLE

log = logging.getLogger(__name__)

API = Path(__file__).parents[1]
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


class ServiceLogger(Logger):
    """gunicorn's logger; the service's log writes its lines."""

    def setup(self, cfg: object) -> None:
        """Let the root logger write all lines (called by gunicorn)."""
        self.cfg = cfg
        self.error_log.propagate = True


class Service(Application):
    """gunicorn, configured by the service's settings.

    Attributes:
        settings: The settings.

    Raises:
        ConfigError: A setting is wrong.
        QueryFileError: A SQL file does not fit its route.
    """

    def __init__(self) -> None:
        self._read_files()
        super().__init__()

    def _read_files(self) -> None:
        self.settings = load_settings()
        self._reports = load_reports(self.settings)
        connection_parameters(self.settings)  # a service without any database is a mistake
        configure_logging(self.settings.log_level, self.settings.log_format)

    def init(self, *_: object) -> dict[str, object]:
        """Return gunicorn's settings (called by gunicorn). GUNICORN_CMD_ARGS overrides them."""
        settings = self.settings
        host = f'[{settings.host}]' if ':' in settings.host else settings.host
        sql_files = [f'{folder}/*.sql' for folder in [*settings.functions, FOLDER]]
        return {
            'bind': f'{host}:{settings.port}',
            'workers': settings.workers or len(os.sched_getaffinity(0)),
            'worker_class': 'api.server.worker.WaitressWorker',
            'timeout': settings.worker_timeout_s,
            'graceful_timeout': settings.shutdown_timeout_s,
            'worker_tmp_dir': os.environ[FOLDER_VARIABLE],
            'control_socket_disable': True,
            'logger_class': ServiceLogger,
            'reload_extra_files': [f'{API}/**/*.py', *sql_files],
            'on_starting': lambda _arbiter: self._check(),
            'child_exit': forget_worker,
        }

    def load(self) -> Callable:
        """Return the WSGI application (called by gunicorn in each worker)."""
        if self.cfg.reload:  # a developer has saved a file
            try:
                self._renew()
            except Exception as ex:  # gunicorn answers with a syntax error until the next save
                raise SyntaxError(str(ex)) from ex
        return importlib.import_module('api.app').create_app(
            self.settings, reports=self._reports, before_waiting=hand_over_loop
        )

    def reload(self) -> None:
        """Load code, settings and SQL files again; if that fails, keep the old (on SIGHUP)."""
        try:
            self._renew()
        except Exception as ex:  # noqa: BLE001 - the service goes on, whatever it is
            log.error('the new version cannot be loaded, the old one stays: %s', ex)
        Application.reload(self)

    def _renew(self) -> None:
        """Import the service's modules again, and become an object of the new version.

        gunicorn keeps this object as long as it runs, so another one cannot take its place.
        """
        old_modules = {n: m for n, m in sys.modules.items() if n.partition('.')[0] == 'api'}
        old_class, old_state = self.__class__, self.__dict__.copy()
        for name in old_modules:
            del sys.modules[name]
        try:
            self.__class__ = importlib.import_module(__name__).Service
            self._read_files()
            self._check()
        except BaseException:
            sys.modules.update(old_modules)
            self.__class__ = old_class
            self.__dict__.update(old_state)
            raise

    def _check(self) -> None:
        """Check that the database can run every SQL file; a database may also come later.

        Raises:
            QueryFileError: The database refuses a file.
        """
        try:
            warnings = check_database(self.settings, self._reports.values())
        except Error as ex:
            warnings = [f'the database cannot be checked: {in_one_line(ex)}']
        host = self.settings.host
        if host not in LOOPBACK and not self.settings.token_sha256:
            warnings.append(f'no token is set: everybody who reaches {host} may read the reports')
        for warning in warnings:
            log.warning('%s', warning)
        for report, query in self._reports.items():
            log.info('report', {'route': report.path, 'file': query.path})


def forget_worker(_: Arbiter, worker: WaitressWorker) -> None:
    """Forget the connections and the gauges of a worker that has ended."""
    connection_counts[worker.age % len(connection_counts)] = 0
    mark_process_dead(worker.pid)
