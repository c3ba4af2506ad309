"""Whether the database answers: one at a time asks it, and for a moment all know."""

from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic

from api.database.errors import DatabaseError, UnavailableError

HOLDS_S = 1.0


class Probe:
    """Shares a sign of life, so that a crowd who ask for one cost no more than one of them."""

    def __init__(self, ask: Callable[[], None], before_waiting: Callable[[], None]) -> None:
        self._ask = ask
        self._before_waiting = before_waiting
        self._failure: DatabaseError | None = UnavailableError('database not asked yet')
        self._expires_at = 0.0
        self._asking = Lock()
        self._asking_since = inf

    def ping(self) -> None:
        """Raise what is wrong, or was HOLDS_S ago; meanwhile who comes first asks again."""
        left_s = self._asking_since + HOLDS_S - monotonic()
        # before the first answer there is nothing to go on with: it is waited for, for a moment
        wait_s = 0.0 if self._expires_at else min(max(left_s, 0.0), HOLDS_S)
        if wait_s:
            self._before_waiting()
        if monotonic() > self._expires_at and self._asking.acquire(timeout=wait_s):
            try:
                if monotonic() > self._expires_at:
                    self._asking_since = monotonic()
                    self._ask()
                    self._failure = None
            except DatabaseError as ex:
                self._failure = ex
            finally:
                self._expires_at = monotonic() + HOLDS_S
                self._asking_since = inf
                self._asking.release()
        if monotonic() > self._asking_since + HOLDS_S:
            raise UnavailableError('database silent')
        if failure := self._failure:
            raise type(failure)(str(failure))
