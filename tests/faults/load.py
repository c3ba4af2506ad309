"""Steady load: clients that send requests continuously, each on its own connection."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.service import PATHS
from tests.support.waiting import DEADLINE_S, wait_for


class Asked(NamedTuple):
    """A request: the time, and the status, body and time of its response, or the error."""

    at: float
    path: str
    seconds: float
    status: int = 0
    body: bytes = b''
    failure: Exception | None = None


class Load:
    """Runs clients during a with block.

    Args:
        url: The API's base URL.
        path: Returns the path of the next request, given its number.
        clients: How many ask at the same time.
        headers: Sent with every request.

    Attributes:
        asked: Every request that has ended.
    """

    def __init__(
        self,
        url: str,
        path: Callable[[int], str] = lambda number: PATHS[number % len(PATHS)],
        *,
        clients: int = 6,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.asked: list[Asked] = []
        self._netloc = urlsplit(url).netloc
        self._path = path
        self._headers = headers or {}
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._clients = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> 'Load':
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join(DEADLINE_S)
            assert not client.is_alive(), 'a request was never answered'

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._netloc, timeout=DEADLINE_S)
        at = time.monotonic()
        while not self._is_over.is_set():
            path = self._path(next(self._numbers))
            before, at = at, time.monotonic()
            try:
                connection.request('GET', path, headers=self._headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as ex:
                connection.close()
                is_idle = isinstance(ex, ConnectionResetError | BrokenPipeError)
                if is_idle and at - before > 1:
                    continue  # a worker that stops closes an idle connection: open a new one
                self.asked.append(Asked(at, path, time.monotonic() - at, failure=ex))
                time.sleep(0.01)  # limits the rate of new connections
            else:
                self.asked.append(Asked(at, path, time.monotonic() - at, answer.status, body))
        connection.close()

    def wait_for(self, more: int) -> None:
        """Wait for some more responses."""
        for wanted in range(len(self.asked) + 1, len(self.asked) + more + 1):
            wait_for(lambda n=wanted: len(self.asked) >= n)

    def since(self, moment: float) -> list[Asked]:
        """Return the requests after a time of time.monotonic()."""
        return [asked for asked in self.asked if asked.at >= moment]


def failures(asked: list[Asked]) -> list[Asked]:
    """Return the requests without a 200 response."""
    return [one for one in asked if one.status != 200]
