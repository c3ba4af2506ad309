"""Stopping: SIGTERM drains, SIGINT and SIGQUIT stop at once, and no files or processes remain."""

import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.server.crowd import Crowd, ask, read
from tests.support.machine import is_listening
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import AVAILABLE, ApiProcess, connection_counts, workers
from tests.support.waiting import DEADLINE_S, wait_for


def test_sigterm_waits_for_all_answers_in_progress(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='4',
        API_POOL_TIMEOUT_S='60',
        API_STATEMENT_TIMEOUT_S='120',
        API_SHUTDOWN_TIMEOUT_S='120',
    )
    httpx.get(api.url + '/live')  # opens the files of the metrics
    # more than the pool has connections, so some requests wait in the service
    paths = [f'{AVAILABLE}&timestamp=2024-07-{day}' for day in range(10, 22)]
    with ThreadPoolExecutor(len(paths)) as clients:
        with locked_uses(database_url):
            asking = [
                clients.submit(httpx.get, api.url + path, timeout=DEADLINE_S) for path in paths
            ]
            wait_until_busy(rows, count=4)
            wait_for(lambda: connection_counts(api) == [len(paths)])
            [worker] = workers(api)
            worker.rlimit(psutil.RLIMIT_NOFILE, (3, 3))  # it can accept no more
            api.process.terminate()
            wait_for(lambda: not is_listening(api.port))
        answers = [each.result() for each in asking]
    assert {(answer.status_code, answer.headers['connection']) for answer in answers} == {
        (200, 'close')
    }
    assert api.process.wait(DEADLINE_S) == 0


def test_sigterm_loses_no_connection_that_waits_to_be_accepted(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    [worker] = workers(api)
    worker.suspend()
    with Crowd(api.port) as crowd:
        clients = crowd.connect(50)
        for client in clients:
            ask(client, AVAILABLE)
        api.process.terminate()
        wait_for(lambda: 'Handling signal: term' in api.output())
        worker.resume()
        assert {read(client)[0] for client in clients} == {200}


def test_sigterm_ends_a_worker_with_as_many_connections_as_it_may_have(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=sample_url,
        API_WORKERS='1',
        API_SHUTDOWN_TIMEOUT_S='3600',
        GUNICORN_CMD_ARGS='--worker-connections 1',
    )
    with Crowd(api.port) as crowd:
        crowd.connect(2)
        wait_for(lambda: connection_counts(api) == [1])
        api.process.terminate()
        assert api.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ('number', 'timeout_s'),
    [(signal.SIGTERM, '2'), (signal.SIGINT, '3600'), (signal.SIGQUIT, '3600')],
)
def test_end_waits_no_longer_than_it_should_and_leaves_nothing_behind(
    rows: Rows,
    database_url: str,
    start_api: Callable[..., ApiProcess],
    number: signal.Signals,
    timeout_s: str,
) -> None:
    api = start_api(
        DATABASE_URL=database_url,
        API_STATEMENT_TIMEOUT_S='3600',
        API_SHUTDOWN_TIMEOUT_S=timeout_s,
    )
    with locked_uses(database_url), socket.create_connection(('127.0.0.1', api.port)) as client:
        client.sendall(f'GET {AVAILABLE} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
        wait_until_busy(rows)
        left = workers(api)
        # the folder of the metrics
        maps = [mapped.path for worker in left for mapped in worker.memory_maps()]
        [folder] = {Path(path).parent for path in maps if path.endswith('.db')}
        assert folder.exists()
        api.process.send_signal(number)
        assert api.process.wait(DEADLINE_S) == 0
        assert psutil.wait_procs(left, timeout=DEADLINE_S)[1] == []
        assert client.recv(1000) == b''
        assert not folder.exists()


def test_killed_parent_leaves_no_worker(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    wait_for(lambda: len(workers(api)) == 2)
    orphans = workers(api)
    api.process.kill()
    assert psutil.wait_procs(orphans, timeout=DEADLINE_S)[1] == []
