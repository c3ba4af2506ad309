"""Whether the database answers: one request asks it, and the result is cached for a second."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

from api.database.errors import DatabaseError, UnavailableError

CACHED_S = 1.0


class Probe:
    """Caches the result of a ping.

    Args:
        ping: Raises a DatabaseError if the database does not answer.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._lock = Lock()
        self._expires_at = 0.0
        self._error: DatabaseError | None = UnavailableError('the database was not asked yet')

    def check(self) -> None:
        """Raise the cached error, if there is one. The first caller after it expires pings."""
        if monotonic() > self._expires_at and self._lock.acquire(blocking=False):
            try:
                self._ping()
                self._error = None
            except DatabaseError as ex:
                self._error = ex
            finally:
                self._expires_at = monotonic() + CACHED_S
                self._lock.release()
        elif monotonic() > self._expires_at + CACHED_S:
            raise UnavailableError('the database is silent')
        if self._error:
            raise type(self._error)(*self._error.args)
