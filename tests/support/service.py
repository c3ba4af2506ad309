"""The service as a real process: its responses, log, metrics and workers."""

import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.commands import patient_environment
from tests.support.machine import is_listening
from tests.support.project import ROOT
from tests.support.waiting import DEADLINE_S, until, wait_for

PATHS = TOP, AVAILABLE, INACTIVE = (
    '/venues/top-benefits',
    '/venues/1/available-benefits?personId=1',
    '/venues/1/inactivity-periods',
)
# for tests without a database: the time after which each request gets a 503
BRIEF = {'API_POOL_TIMEOUT_S': '1.5'}
numbers = itertools.count(1)


def start_service(
    environment: dict[str, str], *, launch: Sequence[str] = (), cwd: Path = ROOT, **options: Any
) -> subprocess.Popen:
    """Start `python -m api` without waiting until it serves.

    Args:
        environment: Environment variables; by default, the service chooses a port.
        launch: Words before the command.
        cwd: The project's folder.
        options: Options of subprocess.Popen.
    """
    return subprocess.Popen(
        [*launch, sys.executable, '-m', 'api'],
        cwd=cwd,
        env=patient_environment() | {'API_PORT': '0'} | environment,
        **options,
    )


class ApiProcess:
    """A real `python -m api` process. By default, it chooses its port.

    Attributes:
        client: An HTTP client for it.
        process: The process; the file `log` has its output.
        collector: The process that reads its output from a pipe, if `is_piped`.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        folder_of_project: Path = ROOT,
        is_piped: bool = False,
    ) -> None:
        self.log = folder / f'api-{next(numbers)}.log'
        self.collector: subprocess.Popen | None = None
        with ExitStack() as stack:
            output = stack.enter_context(self.log.open('wb'))
            if is_piped:
                self.collector = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=output)
                output = stack.enter_context(self.collector.stdin)
            self.process = start_service(
                environment,
                cwd=folder_of_project,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            self.port = self._wait_for_port(int(environment.get('API_PORT', 0)))
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        self.url = f'http://127.0.0.1:{self.port}'
        self.client = httpx.Client(base_url=self.url, timeout=DEADLINE_S)

    def _wait_for_port(self, chosen: int) -> int:
        listening = r'Listening at: http://127\.0\.0\.1:(\d+)'
        for _ in until():
            if found := re.search(listening, self.output()):
                return int(found[1])
            if chosen and is_listening(chosen):  # the log has the port only at the level info
                return chosen
            if self.process.poll() is not None:
                break
        raise AssertionError(f'the API does not listen:\n{self.output()}')

    def output(self) -> str:
        """Return the output of the process so far."""
        return self.log.read_text()

    def get(self, path: str, **kwargs: object) -> httpx.Response:
        """Send a GET."""
        return self.client.get(path, **kwargs)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE_S)
        if self.collector:  # ends when it has read all output
            self.collector.wait(DEADLINE_S)
        return status


def as_of(path: str, timestamp: str) -> str:
    """Return a report's path with a timestamp."""
    return f'{path}{"&" if "?" in path else "?"}timestamp={timestamp}'


def metric(api: ApiProcess, name: str) -> float:
    """Return the value of a metric, or 0 if it does not exist.

    Args:
        api: The API.
        name: Its name and labels, with or without the common prefix.
    """
    answer = httpx.get(f'{api.url}/metrics', timeout=DEADLINE_S)
    for line in answer.text.splitlines():
        if line.removeprefix('benefits_api_').startswith(f'{name} '):
            return float(line.rsplit(' ', 1)[1])
    return 0.0


def workers(api: ApiProcess) -> list[psutil.Process]:
    """Return the API's worker processes."""
    return psutil.Process(api.process.pid).children()


@contextmanager
def client_of_each_worker(api: ApiProcess) -> Iterator[dict[int, httpx.Client]]:
    """Connect until every worker has a client; yields the clients by the pid of their worker."""
    clients: dict[int, httpx.Client] = {}
    with ExitStack() as stack:
        for _ in until():
            client = stack.enter_context(httpx.Client(base_url=api.url, timeout=DEADLINE_S))
            stream = client.get('/live').extensions['network_stream']
            port = stream.get_extra_info('client_addr')[1]
            running = workers(api)
            [pid] = [
                worker.pid
                for worker in running
                if port in {connection.raddr.port for connection in connections(worker)}
            ]
            clients.setdefault(pid, client)
            if len(clients) == len(running):
                break
        else:
            raise AssertionError(f'{len(clients)} workers take connections')
        yield clients


def settled_output(api: ApiProcess) -> str:
    """Return the output of the API, including the log lines of all responses so far."""
    ids = []
    with client_of_each_worker(api) as clients:
        for client in clients.values():
            ids.append(f'settled-{next(numbers)}')
            client.get('/live', headers={'X-Request-ID': ids[-1]})
    # a worker's lines stay in order
    wait_for(lambda: all(f'request_id={id_} ' in api.output() for id_ in ids))
    return api.output()


def connections(process: psutil.Process) -> list[Any]:
    """Return the established TCP connections of a process; none if it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        found = process.net_connections('tcp')
        return [connection for connection in found if connection.status == psutil.CONN_ESTABLISHED]
    return []


def connection_counts(api: ApiProcess) -> list[int]:
    """Return the number of clients of each worker."""
    return [
        sum(connection.laddr.port == api.port for connection in connections(worker))
        for worker in workers(api)
    ]
