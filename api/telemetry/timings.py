"""Where a request's time went."""

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds of one request.

    Attributes:
        pool_s: What it waited: for an identical request, or for a connection.
        database_s: What its statements took.
    """

    pool_s: float = 0.0
    database_s: float = 0.0
