"""What Prometheus scrapes: answers, their time, the pools, and what went wrong."""

import os
import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from api import VERSION

FOLDER_VARIABLE = 'PROMETHEUS_MULTIPROC_DIR'
# seconds: from a quick report to the longest that a statement may take
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def share_between_processes(folder: str) -> None:
    """Keep all metrics that are made from now on in files, which processes add up.

    prometheus_client decides this when it is imported, by the same variable; here, every
    start of the service has a folder of its own. Metrics that are made before a fork are right
    after it, since every operation on a value looks whether it still has its process's file.

    Args:
        folder: An empty folder.
    """
    os.environ[FOLDER_VARIABLE] = folder
    values.ValueClass = values.get_value_class()


def forget_process(pid: int) -> None:
    """Take the state of a process that has ended out of the sums; what it counted stays."""
    if FOLDER_VARIABLE in os.environ:
        mark_process_dead(pid)


class Metrics:
    """The service's metrics; each is a member."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        common = {'namespace': 'benefits_api', 'registry': self._registry}
        self.requests = Counter(
            'http_requests', 'Answers by route and status', ['route', 'status'], **common
        )
        self.problems = Counter(
            'http_problems', 'Errors by the kind of problem', ['kind'], **common
        )
        self.duration = Histogram(
            'http_request_duration_seconds',
            'Time from the request to its answer',
            ['route'],
            buckets=BUCKETS,
            **common,
        )
        self.database = Counter(
            'database_seconds', 'Time that statements took, by route', ['route'], **common
        )
        self.retries = Counter(
            'database_retries', 'Statements that ran again on another connection', **common
        )
        self.timeouts = Counter(
            'database_timeouts', 'Statements that ran into the statement timeout', **common
        )
        self.shared = Counter(
            'shared_answers', 'Answers taken from an identical request in progress', **common
        )
        self.restarts = Counter('workers_restarted', 'Workers that were replaced', **common)
        gauge = common | {'multiprocess_mode': 'livesum'}
        self.connections = Gauge(
            'database_connections', 'Connections that are open', ['state'], **gauge
        )
        self.waiting = Gauge('requests_waiting', 'Requests that wait for a connection', **gauge)
        Gauge(
            'build_info',
            'What runs',
            ['version', 'python'],
            multiprocess_mode='max',
            **common,
        ).labels(VERSION, platform.python_version()).set(1)

    def observe(self, route: str, status: int, total_s: float, database_s: float) -> None:
        """Count an answer.

        Args:
            route: The path's template, or - where there is none.
            status: The answer's HTTP status.
            total_s: Seconds from the request to the answer.
            database_s: Seconds of them that the database took.
        """
        self.requests.labels(route, status).inc()
        self.duration.labels(route).observe(total_s)
        if database_s:
            self.database.labels(route).inc(database_s)

    def publish_pool(self, stats: dict[str, int]) -> None:
        """Tell how the pool of this process is.

        Args:
            stats: What psycopg_pool's get_stats returns.
        """
        self.connections.labels('open').set(stats['pool_size'])
        self.connections.labels('idle').set(stats['pool_available'])
        self.waiting.set(stats['requests_waiting'])

    def exposition(self) -> bytes:
        """Return the metrics of all processes in Prometheus's text format."""
        registry = self._registry
        if FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
