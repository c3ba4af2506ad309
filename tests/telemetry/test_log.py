"""What is told about the service costs it nothing that a client would notice, whatever happens."""

import fcntl
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from api.telemetry.snapshots import HALF_BYTES, Snapshots
from api.telemetry.stderr import MAX_WAITING

from api.http.problems import PROBLEMS
from api.telemetry.metrics import Metrics
from tests.faults.load import PATHS, Load
from tests.support import (
    DEADLINE_S,
    ROOT,
    client_of_each_worker,
    fill,
    is_listening,
    metric,
    patient_environment,
    run,
    small_file_system,
    wait_for,
)

PIPE_BYTES = 4096
WHOLE_LINE = re.compile(rb'timestamp=\S+Z level=\w+ event=((?!timestamp=).)*')


class PipedApi:
    """An API process whose log goes to a small pipe.

    Attributes:
        process: The process.
        url: Where it answers.
        lines: What was read of the pipe.
    """

    def __init__(self, database_url: str, port: int, workers: str) -> None:
        self._reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        settings = {'DATABASE_URL': database_url, 'API_PORT': str(port), 'API_WORKERS': workers}
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'api'],
            cwd=ROOT,
            env=patient_environment() | settings,
            stderr=writing,
        )
        os.close(writing)
        self.url = f'http://127.0.0.1:{port}'
        self.lines: list[bytes] = []
        wait_for(lambda: is_listening(port))

    def read(self) -> threading.Thread:
        """Begin to read the pipe to its end."""
        thread = threading.Thread(target=self._read)
        thread.start()
        return thread

    def _read(self) -> None:
        with os.fdopen(self._reading, 'rb') as pipe:
            for line in pipe:
                self.lines.append(line.removesuffix(b'\n'))


@pytest.fixture
def start_piped(sample_url: str, unused_port: int) -> Iterator[Callable[[str], PipedApi]]:
    """Return a function that starts an API process with a number of workers."""
    started: list[PipedApi] = []

    def start(workers: str) -> PipedApi:
        started.append(PipedApi(sample_url, unused_port, workers))
        return started[-1]

    yield start
    for api in started:
        if api.process.poll() is None:
            for worker in psutil.Process(api.process.pid).children():
                worker.kill()
        api.process.kill()
        api.process.wait(DEADLINE_S)


def test_log_that_nobody_reads_is_dropped_and_counted(start_piped: Callable) -> None:
    api = start_piped('1')
    with Load(api.url, lambda _: '/live', clients=8) as clients:
        wait_for(lambda: clients.wait_for(500) or metric(api, 'log_lines_dropped_total') > 100)
    assert len(clients.asked) > MAX_WAITING
    assert {asked.status for asked in clients.asked} == {200}
    dropped = metric(api, 'log_lines_dropped_total')
    reader = api.read()
    [told] = wait_for(lambda: found(rb'level=warning event="(\d+) lines of the log', api.lines))
    assert int(told) == metric(api, 'log_lines_dropped_total') >= dropped
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0
    reader.join(DEADLINE_S)
    # all that was not dropped is there, in whole lines
    requests = found(rb'(event=request) ', api.lines)
    assert len(requests) + int(told) > len(clients.asked)
    assert [line for line in api.lines if not WHOLE_LINE.fullmatch(line)] == []


def found(pattern: bytes, lines: list[bytes]) -> list[bytes]:
    """Return the only group of a pattern, of each line that has it."""
    return re.findall(pattern, b'\n'.join(lines))


def test_log_that_nobody_reads_keeps_no_process_alive_and_none_from_being_replaced(
    start_piped: Callable,
) -> None:
    api = start_piped('1')
    with Load(api.url, lambda _: '/live', clients=8) as clients:
        clients.wait_for(1000)
        [worker] = psutil.Process(api.process.pid).children()
        worker.kill()
        wait_for(lambda: metric(api, 'workers_restarted_total') == 1)
        clients.wait_for(1000)
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0


def test_lines_of_two_workers_are_not_mixed(start_piped: Callable) -> None:
    api = start_piped('2')
    # nobody reads yet, so both workers wait in the midst of what they write
    with client_of_each_worker(api, 2) as clients:
        for number in range(800):
            client = clients[list(clients)[number % 2]]
            assert client.get('/live').status_code == 200
    reader = api.read()
    wait_for(lambda: len(found(rb'(event=request) ', api.lines)) >= 800)
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0
    reader.join(DEADLINE_S)
    assert [line for line in api.lines if not WHOLE_LINE.fullmatch(line)] == []


def test_service_without_a_standard_error_has_no_log(sample_url: str, unused_port: int) -> None:
    settings = {'DATABASE_URL': sample_url, 'API_PORT': str(unused_port), 'API_WORKERS': '1'}
    process = subprocess.Popen(
        ['sh', '-c', 'exec "$0" -m api 2>&-', sys.executable],
        cwd=ROOT,
        env=patient_environment() | settings,
    )
    try:
        wait_for(lambda: is_listening(unused_port))
        for path in PATHS:
            url = f'http://127.0.0.1:{unused_port}{path}'
            assert httpx.get(url, timeout=DEADLINE_S).status_code == 200
        for one in [*psutil.Process(process.pid).children(), process]:
            assert Path(f'/proc/{one.pid}/fd/2').readlink() == Path(os.devnull)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.mark.slow
def test_full_temporary_folder_is_nothing_to_the_metrics(
    sample_url: str, start_api: Callable, tmp_path: Path
) -> None:
    (tmp_path / 'small').mkdir()
    with small_file_system(tmp_path / 'small') as folder:
        api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', TMPDIR=str(folder))
        workers = {worker.pid for worker in psutil.Process(api.process.pid).children()}
        fill(folder)
        for path in [*PATHS, '/live', '/ready', '/docs/', '/openapi.json', '/nowhere']:
            for _ in range(20):
                answer = httpx.get(api.url + path, timeout=DEADLINE_S)
                assert answer.status_code == (404 if path == '/nowhere' else 200)
        assert {worker.pid for worker in psutil.Process(api.process.pid).children()} == workers
        assert [file.name for file in folder.iterdir()] == ['filling']
        api.stop()


@pytest.mark.slow
def test_killed_workers_take_no_counts_with_them(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', API_POOL_MIN_SIZE='3')
    parent = psutil.Process(api.process.pid)
    counts = (f'http_requests_total{{route="{PATHS[0]}",status="200"}}',)
    counts += (f'http_request_duration_seconds_count{{route="{PATHS[0]}"}}',)
    lengths = []
    for number in range(1, 6):
        with client_of_each_worker(api, 2) as clients:
            [one, other] = clients.values()
            assert one.get(PATHS[0]).status_code == 200
            wait_for(lambda other=other: metric(other, counts[0]) == number)  # noqa: B023
            lengths.append(len(other.get('/metrics').text.splitlines()))
            cpu_s = metric(other, 'process_cpu_seconds_total')
            [killed, _] = clients
        psutil.Process(killed).kill()
        wait_for(lambda: metric(api, 'workers_restarted_total') == number)  # noqa: B023
        wait_for(lambda: len(parent.children()) == 2)
        assert {metric(api, count) for count in counts} == {number}
        # what another worker has used is known a second later
        wait_for(lambda: metric(api, 'process_cpu_seconds_total') >= cpu_s)  # noqa: B023
        for state in ('open', 'idle'):
            name = f'database_connections{{state="{state}"}}'
            wait_for(lambda name=name: metric(api, name) == 6)
    assert len(set(lengths[1:])) == 1


def test_count_that_was_told_is_there_after_its_worker_was_killed(
    sample_url: str, start_api: Callable
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    count = f'http_requests_total{{route="{PATHS[0]}",status="200"}}'
    for number in range(1, 4):
        with client_of_each_worker(api, 1) as clients:
            [(pid, client)] = clients.items()
            assert client.get(PATHS[0]).status_code == 200
            assert metric(client, count) == number
            psutil.Process(pid).kill()
        wait_for(lambda: metric(api, 'workers_restarted_total') == number)  # noqa: B023
        assert metric(api, count) == number


def write_for_ever(snapshots: Snapshots) -> None:
    """Write snapshots, each of one byte many times."""
    number = 0
    while True:
        number += 1
        snapshots.write(1, bytes([number % 256]) * (HALF_BYTES // 2))


# it does nothing there that needs another thread of this process
@pytest.mark.filterwarnings('ignore:.*multi-threaded:DeprecationWarning')
def test_snapshot_is_whole_while_it_is_written_and_after_its_writer_was_killed() -> None:
    snapshots = Snapshots(2)
    seen = set()
    for _ in range(5):
        writer = multiprocessing.get_context('fork').Process(
            target=write_for_ever, args=[snapshots]
        )
        writer.start()
        before = len(seen)
        while len(seen) < before + 20:
            snapshot = snapshots.read(1)
            assert len(set(snapshot)) <= 1
            seen.add((writer.pid, snapshot[:1]))
        writer.kill()
        writer.join()
        assert len(set(snapshots.read(1))) == 1
    assert snapshots.read(0) == b''


def test_snapshot_that_does_not_fit_leaves_the_one_before() -> None:
    snapshots = Snapshots(2)
    snapshots.write(0, b'neighbour')
    snapshots.write(1, b'before')
    snapshots.write(1, bytes(HALF_BYTES))
    assert (snapshots.read(0), snapshots.read(1)) == (b'neighbour', b'before')


def test_all_labels_that_there_can_be_fit_into_a_snapshot() -> None:
    snapshots = Snapshots(2)
    metrics = [Metrics(snapshots, slot) for slot in range(2)]
    # each of more routes than there are, with each status that anything here answers with
    statuses = {200, 204, 206, 304, 416, *(kind.status for kind in PROBLEMS.values())}
    for route in range(20):
        for status in statuses:
            metrics[1].observe(f'/a/route/as-long-as/the-longest/{route}', status, 1.5, 1.5)
    for kind in PROBLEMS:
        metrics[1].problems.labels(kind).inc()
    metrics[1].publish()
    assert 0 < len(snapshots.read(1)) < HALF_BYTES / 2
    ours, theirs = (one.exposition().decode().splitlines() for one in metrics)
    # all but the figures of the two processes, which are one here
    assert [line for line in ours if 'process_' not in line] == [
        line for line in theirs if 'process_' not in line
    ]


def test_state_of_a_worker_that_has_ended_does_not_count_and_its_counts_go_on() -> None:
    snapshots = Snapshots(2)
    parent, worker = (Metrics(snapshots, slot) for slot in range(2))
    for _ in range(3):
        worker.observe('/live', 200, 0.002, 0.001)
        worker.publish_pool({'pool_size': 3, 'pool_available': 2, 'requests_waiting': 1})
        worker.publish()
        assert value_of(parent, 'benefits_api_database_connections', state='open') == 3
        parent.worker_ended(1)
        assert value_of(parent, 'benefits_api_database_connections', state='open') is None
        worker = Metrics(snapshots, 1)
    for name in ('benefits_api_http_requests', 'benefits_api_http_request_duration_seconds'):
        suffix = '_total' if name.endswith('requests') else '_count'
        assert value_of(worker, name, suffix) == value_of(parent, name, suffix) == 3
    assert value_of(worker, 'benefits_api_workers_restarted', '_total') == 3
    assert value_of(worker, 'benefits_api_requests_waiting') == 0


def value_of(metrics: Metrics, name: str, suffix: str = '', **labels: str) -> float | None:
    """Return the first sample of a metric with some labels."""
    for family in metrics.collect():
        for sample in family.samples:
            if sample.name == name + suffix and labels.items() <= sample.labels.items():
                return sample.value
    return None


WRITES_AT_ITS_END = """
from api.telemetry.stderr import Stderr

class Late:
    stream = Stderr(2)

    def __del__(self):
        self.stream.write('too late')

late = Late()
"""


def test_who_writes_while_python_ends_does_not_hold_it_up() -> None:
    assert run(sys.executable, '-c', WRITES_AT_ITS_END) == ''
