"""The service as a gunicorn application: configuration, start, reload."""

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from gevent.os import tp_write
from gunicorn.app.base import Application
from gunicorn.glogging import Logger

log = logging.getLogger(__name__)

API = Path(__file__).parents[1]
# not imported again at a reload, because gunicorn keeps its Service
STABLE_MODULES = ('api.server', __name__)
# cores that the process may use; macOS reports only how many there are
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
MAX_CONNECTIONS = 900  # of a worker; below the usual limit of open files, 1,024


class ServiceLogger(Logger):
    """gunicorn's logger, which passes its lines to the service's log."""

    def setup(self, _: object) -> None:
        """Let the root logger write all lines (called by gunicorn)."""
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
        self.settings, self._reports = read_files()
        configure_logging(self.settings)
        super().__init__()

    def init(self, *_: object) -> dict[str, object]:
        """Return gunicorn's settings (called by gunicorn). GUNICORN_CMD_ARGS overrides them."""
        settings = self.settings
        host = f'[{settings.host}]' if ':' in settings.host else settings.host
        sql_folders = {query.path.parent for query in self._reports.values()}
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
            'reload_extra_files': [f'{API}/**/*.py', *(f'{each}/*.sql' for each in sql_folders)],
            'on_starting': lambda _: check(self.settings, self._reports),
            'child_exit': lambda _, worker: worker.release_slot(),
        }

    def load(self) -> Callable:
        """Return the WSGI application (called by gunicorn in each worker)."""
        if self.cfg.preload_app:
            sys.exit('error: preload_app is not supported: workers would share connections')
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
        old_modules = {n: m for n, m in sys.modules.items() if n.partition('.')[0] == 'api'}
        for name in old_modules.keys() - STABLE_MODULES:
            del sys.modules[name]
        try:
            settings, reports = read_files()
            import_module('api.server.worker')  # gunicorn imports it later
            check(settings, reports)
            configure_logging(settings)
        except BaseException:
            sys.modules.update(old_modules)
            raise
        self.settings, self._reports = settings, reports


# no class of the modules below is imported above: after a reload, it would be an old one
def read_files() -> tuple[Any, Any]:
    """Return the settings, and the query of each report."""
    app = import_module('api.app')
    settings = app.load_settings()
    import_module('api.database.connection').connection_parameters(settings)  # raises ConfigError
    return settings, app.load_reports(settings)


def check(settings: Any, reports: Any) -> None:
    import_module('api.server.check').check_start(settings, reports)


def configure_logging(settings: Any) -> None:
    log_module = import_module('api.telemetry.log')
    # tp_write blocks a thread, and no greenlet, if nobody reads the log
    log_module.configure_logging(settings.log_level, settings.log_format, write=tp_write)
