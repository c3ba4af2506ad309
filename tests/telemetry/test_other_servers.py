"""Other WSGI servers run the application with the same log and the sums of all workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.faults.load import PATHS
from tests.support.commands import patient_environment
from tests.support.machine import free_port, is_listening
from tests.support.project import ROOT
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


@pytest.mark.parametrize('name', SERVERS)
def test_log_and_metrics_are_those_of_the_service(
    sample_url: str, tmp_path: Path, name: str
) -> None:
    port = free_port()
    words = SERVERS[name](port)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    folder = tmp_path / 'metrics'
    folder.mkdir()
    settings = {'DATABASE_URL': sample_url, 'PROMETHEUS_MULTIPROC_DIR': str(folder)}
    log = tmp_path / 'log'
    with log.open('wb') as output:
        server = subprocess.Popen(
            words,
            cwd=ROOT,
            env=patient_environment() | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f'http://127.0.0.1:{port}'
    try:
        wait_for(lambda: is_listening(port))

        def ask(number: int) -> httpx.Response:
            headers = {'X-Request-ID': f'other-{number}'}
            return httpx.get(url + PATHS[number % 3], headers=headers, timeout=DEADLINE_S)

        asked = 0

        def both_have_answered() -> bool:
            nonlocal asked
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(ask, range(asked, asked + 30)))
            asked += 30
            assert {answer.status_code for answer in answers} == {200}
            return len(list(folder.glob('histogram_*.db'))) == 2

        wait_for(both_have_answered)
        found = samples(url)
        assert sum(found[requests(route, 200)] for route in ROUTES.values()) == asked
        # another server may end its workers before their last lines are written
        wait_for(lambda: log.read_text().count(' request_id=other-') == asked)
        server.send_signal(signal.SIGTERM)
        server.wait(DEADLINE_S)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    lines = [line for line in log.read_text().splitlines() if ' event=request ' in line]
    for number in range(asked):
        [line] = [line for line in lines if f' request_id=other-{number} ' in line]
        assert line.startswith('timestamp=')
        assert f' route={ROUTES[PATHS[number % 3]]} status=200 ' in line
