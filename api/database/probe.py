"""Whether the database answers: one request asks it, and the result is cached for a second."""

from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic

from api.database.errors import DatabaseError, UnavailableError

CACHED_S = 1.0
# seconds after which a ping without an answer counts as a failure
SILENT_S = 1.0


class Probe:
    """Caches the result of a ping.

    Args:
        ping: Raises a DatabaseError if the database does not answer.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._lock = Lock()
        self._expires_at = 0.0
        self._silent_at = inf
        self._error: DatabaseError | None = UnavailableError('the database was not asked yet')

    def check(self) -> None:
        """Raise the cached error, if there is one. The first caller after it expires pings."""
        if monotonic() > self._expires_at and self._lock.acquire(blocking=False):
            self._silent_at = monotonic() + SILENT_S
            try:
                self._ping()
                self._error = None
            except DatabaseError as ex:
                self._error = ex
            finally:
                self._expires_at = monotonic() + CACHED_S
                self._silent_at = inf
                self._lock.release()
        elif monotonic() > self._silent_at:
            raise UnavailableError('the database is silent')
        if self._error:
            raise type(self._error)(*self._error.args)
