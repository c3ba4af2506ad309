"""Whether the database answers: asked by one at a time, and known for a moment."""

from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic

from api.database.errors import DatabaseError, UnavailableError

# seconds that an answer holds
HOLDS_S = 1.0


class Probe:
    """Shares a sign of life of the database, so that many who ask for one do not cost much.

    Args:
        ping: Asks the database for it; see Sessions.ping.
    """

    def __init__(self, ping: Callable[[], None]) -> None:
        self._ping = ping
        self._failure: DatabaseError | None = UnavailableError('database not asked yet')
        self._known_at = -inf
        self._asking = Lock()

    def ping(self) -> None:
        """Tell what is known; who comes first after HOLDS_S asks anew, and nobody else waits.

        Raises:
            DatabaseError: It gave none.
        """
        if monotonic() - self._known_at > HOLDS_S and self._asking.acquire(blocking=False):
            try:
                self._ping()
                self._failure = None
            except DatabaseError as ex:
                self._failure = ex
            finally:
                self._known_at = monotonic()
                self._asking.release()
        if failure := self._failure:
            raise type(failure)(str(failure))
