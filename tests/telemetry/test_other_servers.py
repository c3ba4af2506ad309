"""Other WSGI servers run the application with the same log and the sums of all workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.commands import patient_environment
from tests.support.machine import free_port, is_listening
from tests.support.project import ROOT
from tests.support.service import PATHS
from tests.support.waiting import DEADLINE_S, wait_for
from tests.telemetry.test_metrics import ROUTES, requests, samples

SERVERS: dict[str, Callable[[int], list[str]]] = {
    'granian': lambda port: [
        *('granian', '--interface', 'wsgi', '--workers', '2', '--blocking-threads', '4'),
        *('--port', str(port), '--factory', 'api.app:create_app'),
    ],
    'gunicorn': lambda port: [
        *('gunicorn', '--worker-class', 'gthread', '--workers', '2', '--threads', '4'),
        *('--bind', f'127.0.0.1:{port}', 'api.app:create_app()'),
    ],
}


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    """Run a server during a with block; its log goes to a file."""
    program = str(Path(sys.executable).with_name(command[0]))
    with log.open('wb') as output:
        server = subprocess.Popen(
            [program, *command[1:]],
            cwd=ROOT,
            env=patient_environment() | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
@pytest.mark.parametrize('name', SERVERS)
def test_log_and_metrics_are_those_of_the_service(
    sample_url: str, tmp_path: Path, name: str
) -> None:
    port = free_port()
    url = f'http://127.0.0.1:{port}'
    folder, log = tmp_path / 'metrics', tmp_path / 'log'
    folder.mkdir()
    settings = {'DATABASE_URL': sample_url, 'PROMETHEUS_MULTIPROC_DIR': str(folder)}
    asked = 0

    def ask(number: int) -> int:
        headers = {'X-Request-ID': f'other-{number}'}
        return httpx.get(url + PATHS[number % 3], headers=headers, timeout=DEADLINE_S).status_code

    def both_workers_have_answered() -> bool:
        nonlocal asked
        with ThreadPoolExecutor(8) as clients:
            assert set(clients.map(ask, range(asked, asked + 30))) == {200}
        asked += 30
        return len(list(folder.glob('histogram_*.db'))) == 2

    with running(SERVERS[name](port), log, **settings):
        wait_for(lambda: is_listening(port))
        wait_for(both_workers_have_answered)
        found = samples(url)
        assert sum(found[requests(route, 200)] for route in ROUTES.values()) == asked
        wait_for(lambda: log.read_text().count(' request_id=other-') == asked)
    lines = [line for line in log.read_text().splitlines() if ' event=request ' in line]
    for number in range(asked):
        [line] = [line for line in lines if f' request_id=other-{number} ' in line]
        assert line.startswith('timestamp=')
        assert f' route={ROUTES[PATHS[number % 3]]} status=200 ' in line
