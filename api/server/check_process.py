"""The check of the database, in a process of its own: the parent waits for none of what it does."""

import logging
import signal
import time
from collections.abc import Collection
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from api.config import Settings
from api.database.functions import Function, FunctionFileError
from api.server.check import NotCheckedError, check_database, check_limit_s, warn
from api.server.process import SIGNALS, Child, Signals, longer

log = logging.getLogger(__name__)

TURN_S = 0.2


class Check:
    """Checks the database, again and again until it has succeeded once.

    Args:
        settings: Where the database is.
        functions: What it must be fit for.

    Raises:
        ConfigError: The settings name no database.
    """

    def __init__(self, settings: Settings, functions: Collection[Function]) -> None:
        self._settings = settings
        self._functions = functions
        self._limit_s = check_limit_s(settings, len(functions))
        self._child: Child | None = None
        self._is_done = False
        self._pause_s = 0.0
        self._due_at = 0.0

    def run(self, signals: Signals) -> list[str]:
        """Check once, and wait for it until it takes too long or a signal comes.

        Returns:
            What is no reason not to serve, and should be mended.

        Raises:
            FunctionFileError: The database refuses a function.
            NotCheckedError: It could not be checked.
        """
        self._start()
        while self._is_running() and not signals.count:
            signals.wait(TURN_S)
        return self._finish()

    def attend(self) -> None:
        """Do what is to be done about it now, without waiting.

        A service that serves already stays, whatever is found: what is missing may be on its way,
        as in a restore.
        """
        if self._is_done or self._is_running():
            return
        try:
            if self._child:
                warn(self._finish())
            elif time.monotonic() >= self._due_at:
                self._start()
        except FunctionFileError as ex:
            log.error('%s', ex)
        except NotCheckedError as ex:
            log.warning('%s', ex)

    def stop(self) -> None:
        """Leave no process behind."""
        if self._child:
            self._child.send(signal.SIGKILL)

    def _start(self) -> None:
        self._pause_s = longer(self._pause_s)
        self._due_at = time.monotonic() + self._pause_s
        self._deadline = time.monotonic() + self._limit_s
        try:
            self._result, result = Pipe(duplex=False)
            with result:
                self._child = Child(partial(self._work, result))
        except OSError as ex:
            raise NotCheckedError(f'the database cannot be checked: {ex.strerror}') from ex

    def _work(self, result: Connection) -> int:
        """Check (the only thing here that happens in the other process)."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            result.send(check_database(self._settings, self._functions))
        except (FunctionFileError, NotCheckedError) as ex:
            result.send(ex)
        return 0

    def _is_running(self) -> bool:
        """Tell whether it runs still; what takes too long is ended."""
        if not self._child or not self._child.is_alive():
            return False
        if time.monotonic() > self._deadline:
            self.stop()
        return True

    def _finish(self) -> list[str]:
        """Return or raise what it found; see run."""
        child, self._child = self._child, None
        if child.is_alive():  # at a signal
            child.send(signal.SIGKILL)
            raise NotCheckedError('the check of the database was interrupted')
        try:
            found = self._result.recv()
        except EOFError:
            is_late = time.monotonic() > self._deadline
            fate = 'took too long' if is_late else f'ended with status {child.status}'
            raise NotCheckedError(f'the check of the database {fate}') from None
        if isinstance(found, Exception):
            raise found
        self._is_done = True
        return found
