"""Whether the database answers: one at a time asks it, and for a moment all know."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

from api.database.errors import DatabaseError, UnavailableError

HOLDS_S = 1.0


class Probe:
    """Shares a sign of life, so that a crowd who ask for one cost no more than one of them."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._failure: DatabaseError | None = UnavailableError('database not asked yet')
        self._first_at = self._expires_at = 0.0
        self._asking = Lock()

    def ping(self) -> None:
        """Raise what is known to be wrong; who comes first after HOLDS_S asks, the others go on."""
        self._first_at = self._first_at or monotonic()
        # in the first moment nobody knows anything; to wait for longer would use up the threads
        wait_s = max(self._first_at + HOLDS_S - monotonic(), 0)
        if monotonic() > self._expires_at and self._asking.acquire(timeout=wait_s):
            try:
                if monotonic() > self._expires_at:
                    self._ask()
                    self._failure = None
            except DatabaseError as ex:
                self._failure = ex
            finally:
                self._expires_at = monotonic() + HOLDS_S
                self._asking.release()
        if failure := self._failure:
            raise type(failure)(str(failure))
