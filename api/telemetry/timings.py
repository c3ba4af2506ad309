"""Where a request's time went; only ever added to and told, never asked what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter


@dataclass
class Timings:
    """Seconds of one request.

    Attributes:
        pool_s: What it waited: for an identical request, or for a connection.
        database_s: What its statements took.
    """

    pool_s: float = 0.0
    database_s: float = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Add the time of the with statement's block to pool_s."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.pool_s += perf_counter() - begun
