"""Whether the database answers: one request asks it, and the result is cached for a second."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

import psycopg

CACHED_S = 1.0


class Probe:
    """Caches the result of a ping.

    Args:
        ping: Raises a psycopg.Error if the database does not answer.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._lock = Lock()
        self._expires_at = 0.0
        self._error: psycopg.Error | None = psycopg.OperationalError('not asked yet')

    def check(self) -> None:
        """Raise the error of the last ping, if any. The first caller after CACHED_S pings."""
        with self._lock:
            is_first = monotonic() > self._expires_at
            if is_first:
                self._expires_at = monotonic() + CACHED_S
        if is_first:
            try:
                self._ping()
                self._error = None
            except psycopg.Error as ex:
                self._error = ex
        if error := self._error:
            raise type(error)(*error.args)  # an exception that several threads raise would grow
