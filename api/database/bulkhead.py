"""What keeps one kind of request from starving the others (Nygard, Release It!: bulkheads).

Identical requests share one answer, few slow ones run at once, and one too many is refused. Who
waits for another's answer or for a turn leaves as many places as there are sessions.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from threading import Semaphore
from time import monotonic

from api.config import Settings
from api.database.errors import OverloadedError
from api.database.functions import Function, Values
from api.database.sessions import Answer, Sessions
from api.telemetry import metrics
from api.telemetry.timings import Timings


class Bulkhead:
    """The way from a request to the sessions.

    Args:
        sessions: Where the answers come from.
        settings: How many may do what at once.
        before_waiting: Called by a thread that is about to wait.
    """

    def __init__(
        self, sessions: Sessions, settings: Settings, before_waiting: Callable[[], None]
    ) -> None:
        self._sessions = sessions
        self._before_waiting = before_waiting
        self._timeout_s = settings.pool_timeout_s
        self._running: dict[tuple, Future[Answer]] = {}
        self._places = Semaphore(settings.pool_size + settings.pool_max_waiting)
        self._places_aside = Semaphore(settings.pool_max_waiting)
        self._slow = Semaphore(settings.slow_reports_at_once)

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
        with taken(self._places):
            key = (function.name, *values.values())
            mine: Future[Answer] = Future()
            first = self._running.setdefault(key, mine)
            if first is not mine:
                with self._aside(timings):  # as long as the first, whose every wait has a limit
                    metrics.shared.inc()
                    return first.result()
            try:
                deadline = monotonic() + self._timeout_s
                with self._turn(deadline, timings) if is_slow else nullcontext():
                    mine.set_result(self._sessions.fetch(function, values, deadline, timings))
            except BaseException as ex:  # noqa: BLE001 - raised to all who wait for it, here too
                mine.set_exception(ex)
            finally:
                del self._running[key]
            return mine.result()

    @contextmanager
    def _turn(self, deadline: float, timings: Timings) -> Iterator[None]:
        if not self._slow.acquire(blocking=False):
            with self._aside(timings):
                if not self._slow.acquire(timeout=deadline - monotonic()):
                    raise OverloadedError('overloaded')
        try:
            yield
        finally:
            self._slow.release()

    @contextmanager
    def _aside(self, timings: Timings) -> Iterator[None]:
        with taken(self._places_aside), timings.waiting():
            self._before_waiting()
            yield


@contextmanager
def taken(places: Semaphore) -> Iterator[None]:
    """Take one of some places, or refuse the request at once."""
    if not places.acquire(blocking=False):
        raise OverloadedError('overloaded')
    try:
        yield
    finally:
        places.release()
