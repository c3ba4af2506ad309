"""What keeps one kind of request from starving the others (Nygard, Release It!: bulkheads).

Identical requests share one answer, few slow reports run at once, and no more requests than
configured are let in; who would have to wait too long is told so at once.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from time import perf_counter

from api.config import Settings
from api.database import Answer, Database
from api.errors import Problem
from api.functions import Function
from api.metrics import Metrics
from api.tracing import Timings

SLOW_REPORTS = ('top_benefits',)


class Bulkhead:
    """The way from a request to the database.

    Args:
        database: Where the answers come from.
        settings: How many may do what at once.
        metrics: Where shared answers are counted.
        before_waiting: Called by a thread that is about to wait for others.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        before_waiting: Callable[[], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._before_waiting = before_waiting
        # those who are in, by what their answer will be; adding and removing needs no lock
        self._inside: set[Future[Answer]] = set()
        self._running: dict[tuple, Future[Answer]] = {}
        self._slow = threading.Semaphore(settings.slow_reports_at_once)

    def fetch(
        self, function: Function, values: dict[str, int | str | None], timings: Timings
    ) -> Answer:
        """Run a function, or wait for the answer of an identical request that runs already.

        Args:
            function: What to run.
            values: A value for each of its binds, by name.
            timings: Where to add the time that this takes.

        Raises:
            Problem: Too many requests are waiting, or this one waited too long.
            psycopg.errors.QueryCanceled: It ran into the statement timeout.
            psycopg.OperationalError: The database cannot be used now.
        """
        mine: Future[Answer] = Future()
        self._inside.add(mine)
        try:
            inside = len(self._inside)
            if inside > self._settings.pool_size + self._settings.pool_max_waiting:
                raise Problem('overloaded')
            if inside > self._settings.pool_size:
                self._before_waiting()
            key = (function.name, *values.values())
            first = self._running.setdefault(key, mine)
            if first is not mine:
                return self._wait_for(first, timings)
            try:
                answer = self._fetch_alone(function, values, timings)
            except BaseException as ex:
                mine.set_exception(ex)
                raise
            else:
                mine.set_result(answer)
                return answer
            finally:
                del self._running[key]
        finally:
            self._inside.discard(mine)

    def _wait_for(self, first: Future[Answer], timings: Timings) -> Answer:
        asked = perf_counter()
        self._metrics.shared.inc()
        self._before_waiting()
        try:
            return first.result()
        finally:
            timings.pool_s += perf_counter() - asked

    def _fetch_alone(
        self, function: Function, values: dict[str, int | str | None], timings: Timings
    ) -> Answer:
        if function.name not in SLOW_REPORTS:
            return self._database.fetch(function, values, timings)
        with self._slot(timings):
            return self._database.fetch(function, values, timings)

    @contextmanager
    def _slot(self, timings: Timings) -> Iterator[None]:
        """Hold one of the places for slow reports."""
        asked = perf_counter()
        if not self._slow.acquire(blocking=False):
            self._before_waiting()
            if not self._slow.acquire(timeout=self._settings.pool_timeout_s):
                raise Problem('overloaded')
        timings.pool_s += perf_counter() - asked
        try:
            yield
        finally:
            self._slow.release()
