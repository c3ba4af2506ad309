"""The readiness probe: whether the database responds."""

from collections.abc import Callable
from threading import Lock
from time import monotonic

import falcon
import psycopg

from api.http.pages import ReadOnly

CACHED_S = 1.0


class Readiness(ReadOnly):
    """Responds with the result of a ping, which is cached for CACHED_S.

    One request at a time pings. Others wait for its result.

    Args:
        ping: Raises a psycopg.Error if the database does not respond.
    """

    is_public = True

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._lock = Lock()
        self._expires_at = 0.0
        self._error = ''

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        self.check()
        resp.cache_control = ['no-store']
        resp.media = {'status': 'ready'}

    def check(self) -> None:
        """Raise the error of the last ping, if any."""
        with self._lock:
            if monotonic() > self._expires_at:
                try:
                    self._ping()
                    self._error = ''
                except psycopg.Error as ex:
                    self._error = str(ex)
                self._expires_at = monotonic() + CACHED_S
            if self._error:
                raise psycopg.OperationalError(self._error)
