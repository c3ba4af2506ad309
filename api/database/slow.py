"""Coalesces identical concurrent requests for slow queries."""

from concurrent.futures import Future
from time import perf_counter

import psycopg
from psycopg_pool import TooManyRequests

from api.config import Settings
from api.database.pool import Answer, Pool
from api.database.queries import Query, Values
from api.telemetry import metrics
from api.telemetry.metrics import Timings


class SlowQueries:
    """Runs slow queries."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._timeout_s = 2 * settings.pool_timeout_s + settings.statement_timeout_s
        self._running: dict[tuple, Future[Answer]] = {}

    def fetch(self, query: Query, values: Values, timings: Timings) -> Answer:
        """Run a query, or wait for the answer to an identical running one; see Pool.fetch."""
        key = (query.sql, *values.values())
        mine: Future[Answer] = Future()
        first = self._running.setdefault(key, mine)
        if first is not mine:
            return self._answer_of(first, timings)
        try:
            mine.set_result(self._pool.fetch(query, values, timings))
        except BaseException as ex:  # noqa: BLE001 - result() raises it; others must not wait
            mine.set_exception(ex)
        finally:
            del self._running[key]
        return mine.result()

    def _answer_of(self, first: Future[Answer], timings: Timings) -> Answer:
        started = perf_counter()
        try:
            answer = first.result(self._timeout_s)
            metrics.shared.inc()
            return answer
        except TimeoutError as ex:
            raise TooManyRequests('the identical request took too long') from ex
        except psycopg.Error as ex:
            raise type(ex)(*ex.args) from ex  # each request has its own traceback
        finally:
            timings.pool_s += perf_counter() - started
