"""What Prometheus scrapes: answers, their time, the pools, and what went wrong."""

import pickle
import platform
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from api import VERSION
from api.telemetry.log import dropped_lines
from api.telemetry.snapshots import Snapshots

# seconds: from a quick report to the longest that a statement may take
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# a worker goes on where the one that it replaces has ended
disable_created_metrics()


class Figure(NamedTuple):
    """What a value is of: the metric, the sample's name, and its labels."""

    metric: str
    name: str
    labels: tuple[tuple[str, str], ...]


Figures = dict[Figure, float]

# how processes' figures make one; all others are added up
MERGES = {
    'benefits_api_build_info': max,
    'process_start_time_seconds': min,
    'process_max_fds': min,
}


def add_up(everyone: Iterable[Figures]) -> Figures:
    """Make one of several processes' figures."""
    found = defaultdict(list)
    for figures in everyone:
        for figure, value in figures.items():
            found[figure].append(value)
    return {figure: MERGES.get(figure.metric, sum)(values) for figure, values in found.items()}


class DroppedLines(Collector):
    """How many lines the log could not take."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metric (called by prometheus_client)."""
        yield CounterMetricFamily(
            'benefits_api_log_lines_dropped',
            'Lines of the log that were not written, since nobody read it',
            value=dropped_lines(),
        )


class Metrics(Collector):
    """The service's metrics; each is a member.

    Args:
        snapshots: Where the processes of a service tell each other what they have counted; by
            default, this is the only process.
        slot: Which of them this process is. It goes on where the one before it in the slot ended.
    """

    def __init__(self, snapshots: Snapshots | None = None, slot: int = 0) -> None:
        self._snapshots = snapshots or Snapshots(1)
        self._publishing = threading.Lock()
        self._slot = slot
        self._inherited = self._read(slot)
        self._children: dict[tuple, MetricWrapperBase] = {}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(DroppedLines())
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
        self.connections = Gauge(
            'database_connections', 'Connections that are open', ['state'], **common
        )
        self.waiting = Gauge('requests_waiting', 'Requests that wait for a connection', **common)
        build = Gauge('build_info', 'What runs', ['version', 'python'], **common)
        build.labels(VERSION, platform.python_version()).set(1)

    def observe(self, route: str, status: int, total_s: float, database_s: float) -> None:
        """Count an answer.

        Args:
            route: The path's template, or - where there is none.
            status: The answer's HTTP status.
            total_s: Seconds from the request to the answer.
            database_s: Seconds of them that the database took.
        """
        self._child(self.requests, route, status).inc()
        self._child(self.duration, route).observe(total_s)
        if database_s:
            self._child(self.database, route).inc(database_s)

    def _child(self, metric: MetricWrapperBase, *labels: object) -> MetricWrapperBase:
        """Return metric.labels(*labels), which takes longer to find than to count."""
        key = metric, labels
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return self._children[key]

    def publish_pool(self, stats: dict[str, int]) -> None:
        """Tell how the pool of this process is.

        Args:
            stats: What psycopg_pool's get_stats returns.
        """
        self.connections.labels('open').set(stats['pool_size'])
        self.connections.labels('idle').set(stats['pool_available'])
        self.waiting.set(stats['requests_waiting'])

    def publish(self) -> None:
        """Tell the other processes what this one has counted; called every second or so."""
        with self._publishing:
            self._write(self._slot, self._own())

    def worker_ended(self, slot: int) -> None:
        """Count a worker that will be replaced; what it counted stays, its state does not."""
        gauges = {metric.name for metric in self._registry.collect() if metric.type == 'gauge'}
        left = self._read(slot)
        self._write(slot, {figure: left[figure] for figure in left if figure.metric not in gauges})
        self.restarts.inc()
        self.publish()

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with the samples of all processes (called by generate_latest)."""
        samples = defaultdict(list)
        for figure, value in add_up(map(self._read, range(self._snapshots.slots))).items():
            samples[figure.metric].append(Sample(figure.name, dict(figure.labels), value))
        for metric in self._registry.collect():
            if metric.name in samples:
                metric.samples = samples[metric.name]
                yield metric

    def exposition(self) -> bytes:
        """Return the metrics of all processes in Prometheus's text format."""
        self.publish()  # a counter that was told must not be less when this process was killed
        return generate_latest(self)

    def _own(self) -> Figures:
        """Return what this process and those before it in its slot have counted."""
        counted = {
            Figure(metric.name, sample.name, tuple(sample.labels.items())): sample.value
            for metric in self._registry.collect()
            for sample in metric.samples
        }
        return add_up([counted, self._inherited])

    def _read(self, slot: int) -> Figures:
        snapshot = self._snapshots.read(slot)
        # written by this service's own processes
        return pickle.loads(snapshot) if snapshot else {}  # noqa: S301

    def _write(self, slot: int, figures: Figures) -> None:
        self._snapshots.write(slot, pickle.dumps(figures))
