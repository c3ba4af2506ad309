"""What keeps one kind of request from starving the others (Nygard, Release It!: bulkheads).

Identical requests share one answer, few slow ones run at once, and one too many is refused.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic

from api.config import Settings
from api.database.errors import OverloadedError
from api.database.functions import Function, Values
from api.database.sessions import Answer, Sessions
from api.telemetry.metrics import Metrics
from api.telemetry.timings import Timings


class Bulkhead:
    """The way from a request to the sessions.

    Args:
        sessions: Where the answers come from.
        settings: How many may do what at once.
        metrics: Where shared answers are counted.
        make_way: Called by a thread that is about to wait, so that others are served meanwhile.
    """

    def __init__(
        self, sessions: Sessions, settings: Settings, metrics: Metrics, make_way: Callable
    ) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._make_way = make_way
        self._settings = settings
        self._inside = 0
        self._lock = threading.Lock()
        self._running: dict[tuple, Future[Answer]] = {}
        self._slow = threading.Semaphore(settings.slow_reports_at_once)

    def fetch(
        self, function: Function, values: Values, timings: Timings, *, is_slow: bool
    ) -> Answer:
        """Run a function, or wait for the answer of an identical request that runs already.

        Args:
            function: What to run.
            values: A value for each of its binds.
            timings: Where to add the time that this takes.
            is_slow: Whether it is one of those of which few run at once.

        Raises:
            DatabaseError: There is no answer.
        """
        with self._lock:
            if self._inside == self._settings.pool_size + self._settings.pool_max_waiting:
                raise OverloadedError('overloaded')
            self._inside += 1
        try:
            if self._inside > self._settings.pool_size:
                self._make_way()
            return self._share(function, values, timings, is_slow)
        finally:
            with self._lock:
                self._inside -= 1

    def _share(self, function: Function, values: Values, timings: Timings, is_slow: bool) -> Answer:
        key = (function.name, *values.values())
        mine: Future[Answer] = Future()
        first = self._running.setdefault(key, mine)
        if first is not mine:
            self._metrics.shared.inc()
            self._make_way()
            with timings.waiting():  # as long as the first one, whose every wait has a limit
                return first.result()
        deadline = monotonic() + self._settings.pool_timeout_s
        run = self._run_slow if is_slow else self._sessions.fetch
        try:
            mine.set_result(run(function, values, deadline, timings))
        except BaseException as ex:  # noqa: BLE001 - raised to all who wait for it, here too
            mine.set_exception(ex)
        finally:
            del self._running[key]
        return mine.result()

    def _run_slow(
        self, function: Function, values: Values, deadline: float, timings: Timings
    ) -> Answer:
        with timings.waiting():
            if not self._slow.acquire(blocking=False):
                self._make_way()
                if not self._slow.acquire(timeout=deadline - monotonic()):
                    raise OverloadedError('overloaded')
        try:
            return self._sessions.fetch(function, values, deadline, timings)
        finally:
            self._slow.release()
