"""Slow queries leave connections for the others (a bulkhead, see M. Nygard, Release It!).

Identical requests share an answer, and few queries run at once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Semaphore

import psycopg
from psycopg_pool import TooManyRequests

from api.config import Settings
from api.database.pool import Answer, Pool
from api.database.queries import Query, Values
from api.telemetry import metrics
from api.telemetry.timings import Timings


class SlowQueries:
    """Runs slow queries on a pool.

    Args:
        pool: The pool.
        settings: How many slow queries run at once, and how many requests wait for how long.
        before_waiting: Called by a thread that is about to wait.
    """

    def __init__(self, pool: Pool, settings: Settings, before_waiting: Callable[..., None]) -> None:
        self._pool = pool
        self._before_waiting = before_waiting
        self._turn_timeout_s = settings.pool_timeout_s
        self._answer_timeout_s = 2 * settings.pool_timeout_s + settings.statement_timeout_s
        self._running: dict[tuple, Future[Answer]] = {}
        self._turns = Semaphore(settings.slow_reports_at_once)
        self._waiting = Semaphore(settings.pool_max_waiting // 2)

    def fetch(self, query: Query, values: Values, timings: Timings) -> Answer:
        """Run a query, or wait for the answer to an identical request; see Pool.fetch."""
        key = (query.name, *values.values())
        mine: Future[Answer] = Future()
        first = self._running.setdefault(key, mine)
        if first is not mine:
            return self._answer_of(first, timings)
        try:
            with self._turn(timings):
                answer = self._pool.fetch(query, values, timings)
            mine.set_result(answer)
            return answer
        except BaseException as ex:
            mine.set_exception(ex)
            raise
        finally:
            del self._running[key]

    def _answer_of(self, first: Future[Answer], timings: Timings) -> Answer:
        metrics.shared.inc()
        with self._waiting_slot(timings):
            try:
                return first.result(self._answer_timeout_s)
            except TimeoutError as ex:
                raise TooManyRequests('the identical request takes too long') from ex
            except psycopg.Error as ex:
                raise type(ex)(*ex.args) from ex

    @contextmanager
    def _turn(self, timings: Timings) -> Iterator[None]:
        if not self._turns.acquire(blocking=False):
            with self._waiting_slot(timings):
                if not self._turns.acquire(timeout=self._turn_timeout_s):
                    raise TooManyRequests('slow requests take too long')
        try:
            yield
        finally:
            self._turns.release()

    @contextmanager
    def _waiting_slot(self, timings: Timings) -> Iterator[None]:
        """Let a request wait, unless too many wait already."""
        if not self._waiting.acquire(blocking=False):
            raise TooManyRequests('too many slow requests wait')
        try:
            self._before_waiting(is_idle=True)
            with timings.waiting(), metrics.waiting.track_inprogress():
                yield
        finally:
            self._waiting.release()
