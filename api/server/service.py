"""The service as a gunicorn application: configuration, start, reload."""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

from gevent.os import tp_write
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

log = logging.getLogger(__name__)

API = Path(__file__).parents[1]
# not imported again at a reload, because gunicorn keeps its Service
STABLE_MODULES = ('api.server', __name__)
# cores that the process may use; macOS reports only how many there are
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
# the number of workers that can balance their connections; more share the first slot
SLOTS = 256
# the entry of a slot that is free, and of a worker that accepts no more connections
FREE = 2**30
STOPPING = 2**29
# of a worker; below the usual limit of open files, 1,024
MAX_CONNECTIONS = 900


class ServiceLogger(Logger):
    """gunicorn's logger, which passes its lines to the service's log."""

    def setup(self, cfg: object) -> None:
        """Let the root logger write all lines (called by gunicorn)."""
        self.cfg = cfg
        self.error_log.propagate = True


class Service(Application):
    """gunicorn, configured by the service's settings.

    Attributes:
        settings: The settings.
        connection_counts: The number of connections of each worker, by its slot, in shared memory.

    Raises:
        ConfigError: A setting is wrong.
        QueryFileError: A SQL file does not fit its route.
    """

    def __init__(self) -> None:
        self.connection_counts = RawArray('i', [FREE] * SLOTS)
        self._read_files()
        self._configure_logging()
        super().__init__()

    def init(self, *_: object) -> dict[str, object]:
        """Return gunicorn's settings (called by gunicorn). GUNICORN_CMD_ARGS overrides them."""
        settings = self.settings
        host = f'[{settings.host}]' if ':' in settings.host else settings.host
        sql_files = {query.path.parent for query in self._reports.values()}
        return {
            'bind': f'{host}:{settings.port}',
            'workers': settings.workers or CORES,
            'worker_class': 'api.server.worker.WaitressWorker',
            'timeout': settings.worker_timeout_s,
            'worker_connections': MAX_CONNECTIONS,
            'graceful_timeout': settings.shutdown_timeout_s,
            'worker_tmp_dir': os.environ['PROMETHEUS_MULTIPROC_DIR'],
            'control_socket_disable': True,
            'logger_class': ServiceLogger,
            'reload_extra_files': [f'{API}/**/*.py', *(f'{each}/*.sql' for each in sql_files)],
            'on_starting': self._check,
            'pre_fork': self._assign_slot,
            'child_exit': self._free_slot,
        }

    def load(self) -> Callable:
        """Return the WSGI application (called by gunicorn in each worker)."""
        if self.cfg.reload:  # a developer has saved a file
            try:
                self._load_new_version()
            except Exception as ex:
                # only for a SyntaxError, gunicorn serves the message and waits for the next change
                raise SyntaxError(str(ex)) from ex
        return import_module('api.app').create_app(self.settings, reports=self._reports)

    def reload(self) -> None:
        """Load code, settings and SQL files again; if that fails, keep the old (on SIGHUP)."""
        try:
            self._load_new_version()
        except Exception as ex:  # noqa: BLE001 - any error keeps the old version
            log.error('the new version cannot be loaded, the old version is kept: %s', ex)
        super().reload()

    def _load_new_version(self) -> None:
        """Import the service's modules again, read the files again, and check them."""
        old_settings, old_reports = self.settings, self._reports
        old_modules = {n: m for n, m in sys.modules.items() if n.partition('.')[0] == 'api'}
        for name in old_modules.keys() - STABLE_MODULES:
            del sys.modules[name]
        try:
            self._read_files()
            self._check()
            self._configure_logging()
        except BaseException:
            sys.modules.update(old_modules)
            self.settings, self._reports = old_settings, old_reports
            raise

    def _read_files(self) -> None:
        app = import_module('api.app')
        self.settings = app.load_settings()
        self._reports = app.load_reports(self.settings)
        # raises ConfigError if the settings name no database
        import_module('api.database.connection').connection_parameters(self.settings)

    def _configure_logging(self) -> None:
        log_module = import_module('api.telemetry.log')
        # tp_write blocks a thread, and no greenlet, if nobody reads the log
        log_module.configure_logging(
            self.settings.log_level, self.settings.log_format, write=tp_write
        )

    def _check(self, _: Arbiter | None = None) -> None:
        import_module('api.server.check').check_start(self.settings, self._reports)

    def _assign_slot(self, _: Arbiter, worker: Worker) -> None:
        free = (slot for slot, count in enumerate(self.connection_counts) if count == FREE)
        worker.slot = next(free, 0)
        self.connection_counts[worker.slot] = 0

    def _free_slot(self, _: Arbiter, worker: Worker) -> None:
        self.connection_counts[worker.slot] = FREE
