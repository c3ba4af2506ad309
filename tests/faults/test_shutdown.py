"""How the service ends and is replaced: nothing that it accepted is lost."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from api.server.http_server import LINGER_S
from tests.faults.load import Load, failures
from tests.support import (
    DEADLINE_S,
    ROOT,
    SAYS_WHERE_IT_IS,
    ApiProcess,
    Rows,
    can_keep_out,
    end_of,
    is_listening,
    locked_uses,
    make_slow,
    metric,
    patient_environment,
    run,
    suspend,
    until,
    wait_for,
    wait_until_busy,
    workers,
)

AVAILABLE = '/venues/1/available-benefits?personId=1'
# longer than a loaded machine needs for what happens before the end
PATIENT = {'API_SHUTDOWN_TIMEOUT_S': '60'}


def test_killed_worker_is_replaced(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    [first] = workers(api)
    assert api.get(AVAILABLE).status_code == 200
    first.kill()
    wait_for(lambda: [worker for worker in workers(api) if worker.pid != first.pid])
    assert httpx.get(api.url + AVAILABLE, timeout=DEADLINE_S).status_code == 200
    wait_for(lambda: f'worker 1 ended with status {-signal.SIGKILL}' in api.output())
    assert metric(api, 'workers_restarted_total') == 1


def test_killed_parent_leaves_no_orphan(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    wait_for(lambda: len(workers(api)) == 2)
    orphans = workers(api)
    api.process.kill()
    assert psutil.wait_procs(orphans, timeout=DEADLINE_S)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_answers_in_progress_finish(
    rows: Rows, database_url: str, start_api: Callable, number: signal.Signals
) -> None:
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1', **PATIENT)
    with ThreadPoolExecutor(1) as clients:
        with locked_uses(database_url):
            asking = clients.submit(api.get, AVAILABLE)
            wait_until_busy(rows)
            os.kill(api.process.pid, number)
            wait_for(lambda: 'requests in progress' in api.output())
        assert asking.result().status_code == 200
    assert api.process.wait(DEADLINE_S) == 0


def test_service_under_nohup_takes_no_notice_of_sighup(
    rows: Rows, database_url: str, tmp_path: Path
) -> None:
    settings = {'DATABASE_URL': database_url, 'API_WORKERS': '1', **PATIENT}
    api = ApiProcess(tmp_path, settings, launch=['nohup'])
    with ThreadPoolExecutor(1) as clients:
        with locked_uses(database_url):
            asking = clients.submit(api.get, AVAILABLE)
            wait_until_busy(rows)
            api.process.send_signal(signal.SIGHUP)
            # it is the first signal: a second one would end the answer too
            api.process.terminate()
            wait_for(lambda: 'requests in progress' in api.output())
        assert asking.result().status_code == 200
    assert api.stop() == 0


@pytest.mark.slow
def test_kept_connection_may_ask_once_more_at_the_end(sample_url: str, start_api: Callable) -> None:
    for _ in until():
        api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
        asked_at = time.monotonic()
        assert api.get('/live').status_code == 200
        api.process.terminate()
        wait_for(lambda log=api.output: 'worker 1 stopping' in log())
        time.sleep(0.4)
        with suppress(httpx.TransportError):
            answer = api.get('/live')
            assert answer.status_code == 200
            assert answer.headers['connection'] == 'close'
            break
        # or else this machine is too slow now
        assert time.monotonic() - asked_at > LINGER_S - 0.2
    else:
        raise AssertionError('this machine was always too slow')


@pytest.mark.slow
def test_second_signal_ends_at_once(rows: Rows, database_url: str, start_api: Callable) -> None:
    make_slow(rows, 30)
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='60')
    failed = []

    def ask() -> None:
        try:
            api.get(AVAILABLE)
        except httpx.HTTPError as ex:
            failed.append(ex)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until_busy(rows)
    left = workers(api)
    api.process.terminate()
    with pytest.raises(Exception, match='timed out'):
        api.process.wait(0.5)
    api.process.terminate()
    api.process.wait(DEADLINE_S)
    asking.join()
    assert failed
    assert psutil.wait_procs(left, timeout=DEADLINE_S)[1] == []


def resets() -> set[type[Exception]]:
    """Return what may happen to who connects in the last moment, where no filter prevents it."""
    return set() if can_keep_out() else {ConnectionResetError}


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_accepted_request_is_lost_under_load(
    sample_url: str, start_api: Callable, number: signal.Signals
) -> None:
    api = start_api(DATABASE_URL=sample_url)
    with Load(api.url) as clients:
        clients.wait_for(200)
        api.process.send_signal(number)
        assert api.process.wait(DEADLINE_S) == 0
    lost = failures(clients.asked)
    # nobody listens any more: the only way in which a request may fail
    assert {type(asked.failure) for asked in lost} <= {ConnectionRefusedError, *resets()}
    assert len(clients.asked) - len(lost) >= 200


def test_worker_that_is_told_to_end_is_replaced_and_keeps_nobody_out(
    sample_url: str, start_api: Callable
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    wait_for(lambda: len(workers(api)) == 2)
    left, told = workers(api)
    told.terminate()
    wait_for(lambda: len(workers(api)) == 2 and told not in workers(api))
    assert left in workers(api)
    for _ in range(20):
        assert httpx.get(f'{api.url}/live', timeout=DEADLINE_S).status_code == 200
    wait_for(lambda: 'worker 2 ended with status 0' in api.output())


def test_nobody_gets_in_who_would_be_left_behind(sample_url: str, start_api: Callable) -> None:
    if not can_keep_out():
        pytest.skip('this system lets this user attach no filter to a socket')
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', **PATIENT)
    address = ('127.0.0.1', api.port)
    wait_for(lambda: len(workers(api)) == 2)
    first, last = workers(api)
    suspend(last)
    # its listening socket is still open
    api.process.terminate()
    first.wait(DEADLINE_S)
    with pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.5)
    last.resume()
    last.wait(DEADLINE_S)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=DEADLINE_S)


def test_end_waits_for_every_answer_in_progress(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='4',
        API_POOL_TIMEOUT_S='60',
        API_STATEMENT_TIMEOUT_S='60',
        API_SHUTDOWN_TIMEOUT_S='60',
    )
    found = []

    def ask(day: int) -> None:
        path = f'{AVAILABLE}&timestamp=2024-07-{day}'
        found.append(httpx.get(api.url + path, timeout=DEADLINE_S).status_code)

    # more than there are connections, so some wait in the service
    asking = [threading.Thread(target=ask, args=[day]) for day in range(10, 22)]
    with locked_uses(database_url):
        for thread in asking:
            thread.start()
        wait_for(lambda: metric(api, 'requests_waiting') == 8)
        api.process.terminate()
        wait_for(lambda: 'requests in progress: ' in api.output())
    for thread in asking:
        thread.join()
    assert found == [200] * 12
    assert api.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_while_it_starts_is_not_lost(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(('127.0.0.1', 0)) as silent:
        port = silent.getsockname()[1]
        starting = subprocess.Popen(
            [sys.executable, '-m', 'api'],
            cwd=ROOT,
            env=patient_environment()
            | {'DATABASE_URL': f'host=127.0.0.1 port={port}', 'API_CONNECT_TIMEOUT_S': '60'}
            | {'TMPDIR': str(tmp_path)}
            | SAYS_WHERE_IT_IS,
        )
        silent.settimeout(DEADLINE_S)
        try:
            with silent.accept()[0]:  # it waits for the database to say something
                starting.send_signal(number)
                assert end_of(starting) == 0
        finally:
            starting.kill()
    assert list(tmp_path.iterdir()) == []


TELLS_WHERE_SIGNALS_ARE_WRITTEN = """
import atexit, signal
atexit.register(lambda: print(signal.set_wakeup_fd(-1)))  # after what is registered later

from api.server.process import Signals

Signals()
"""


def test_child_that_ends_while_python_does_is_not_told_to_a_socket_that_is_closed() -> None:
    assert run(sys.executable, '-c', TELLS_WHERE_SIGNALS_ARE_WRITTEN) == '-1\n'


@pytest.mark.slow
def test_end_does_not_wait_longer_than_configured(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    def end() -> str:
        """Start it, end it while it answers, and return its log."""
        api = start_api(
            DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='120', API_SHUTDOWN_TIMEOUT_S='0.5'
        )
        with locked_uses(database_url), socket.create_connection(('127.0.0.1', api.port)) as client:
            client.sendall(f'GET {AVAILABLE} HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
            wait_until_busy(rows)
            api.process.terminate()
            assert api.process.wait(DEADLINE_S) == 0
            assert client.recv(1000) == b''
        return api.output()

    # a worker that a busy machine keeps from running is killed before it can say so
    wait_for(lambda: 'ended with answers in progress' in end())


@pytest.mark.slow
def test_rolling_restart_loses_no_request(
    sample_url: str, start_api: Callable, unused_port: int
) -> None:
    settings = {
        'DATABASE_URL': sample_url,
        'API_PORT': str(unused_port),
        'API_REUSE_PORT': 'true',
        'API_WORKERS': '2',
    }
    running = start_api(**settings)
    with Load(running.url, clients=8) as clients:
        for _ in range(3):
            clients.wait_for(100)
            new = start_api(**settings)
            clients.wait_for(100)
            assert running.stop() == 0
            assert is_listening(unused_port)
            running = new
        clients.wait_for(100)
    assert {type(asked.failure) for asked in failures(clients.asked)} <= resets()


@pytest.mark.slow
def test_rolling_restart_loses_no_request_of_clients_that_connect_each_time(
    sample_url: str, start_api: Callable, unused_port: int
) -> None:
    settings = {
        'DATABASE_URL': sample_url,
        'API_PORT': str(unused_port),
        'API_REUSE_PORT': 'true',
        'API_WORKERS': '2',
    }
    running = start_api(**settings)
    with Load(running.url, clients=8, headers={'Connection': 'close'}) as clients:
        clients.wait_for(100)
        new = start_api(**settings)
        clients.wait_for(100)
        assert running.stop() == 0
        clients.wait_for(100)
        assert new.process.poll() is None
    assert {type(asked.failure) for asked in failures(clients.asked)} <= resets()
