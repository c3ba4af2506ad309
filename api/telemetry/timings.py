"""The times of a request."""

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds of one request.

    Attributes:
        pool_s: Time spent waiting for a connection, or for the result of an identical request.
        database_s: Time spent running statements.
    """

    pool_s: float = 0.0
    database_s: float = 0.0
