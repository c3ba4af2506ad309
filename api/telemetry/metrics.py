"""The service's Prometheus metrics.

prometheus_client sums the values of all workers. Each worker writes its values to a file in the
directory PROMETHEUS_MULTIPROC_DIR, which must be set before prometheus_client is imported.
"""

import os
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = 'PROMETHEUS_MULTIPROC_DIR'
# seconds: from a fast report to beyond the default statement timeout
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_registry = CollectorRegistry()
_common = {'namespace': 'benefits_api', 'registry': _registry}

requests = Histogram(
    'http_request_duration_seconds',
    'Duration of requests',
    ['route', 'status'],
    buckets=BUCKETS,
    **_common,
)
problems = Counter('http_problems', 'Error responses by kind of problem', ['kind'], **_common)
retries = Counter('database_retries', 'Statements that were run again', **_common)
shared = Counter('shared_answers', 'Requests that shared the result of an identical one', **_common)
dropped_lines = Counter('log_lines_dropped', 'Dropped log lines', **_common)


@dataclass
class Timings:
    """The times of one request, in seconds.

    Attributes:
        pool_s: Time spent waiting for a connection, or for the result of an identical request.
        database_s: Time spent running statements.
    """

    pool_s: float = 0.0
    database_s: float = 0.0


def exposition() -> bytes:
    """Return the metrics in Prometheus's text format, summed over all workers."""
    registry = _registry
    if FOLDER_VARIABLE in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry)
