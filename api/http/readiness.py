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

    Only the first request after the result has expired pings. Others get the last result, so a
    database that does not respond delays few. Until a ping has succeeded, the service is not ready.

    Args:
        ping: Raises a psycopg.Error if the database does not respond.
    """

    is_public = True

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._lock = Lock()
        self._expires_at = 0.0
        self._error: psycopg.Error | None = psycopg.OperationalError('first ping in progress')

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        self.check()
        resp.cache_control = ['no-store']
        resp.media = {'status': 'ready'}

    def check(self) -> None:
        """Raise the error of the last ping, if any. The first caller after it expires pings."""
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
            # a new exception: raising the same one again extends its traceback
            raise psycopg.OperationalError(*error.args)
