"""The parent of the workers: the dead and the stuck are replaced, and SIGTERM always ends it."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support import (
    DEADLINE_S,
    ROOT,
    ApiProcess,
    Rows,
    locked_uses,
    patient_environment,
    run,
    suspend,
    system_program,
    wait_for,
    workers,
)
from tools.embedded import unprivileged_user

TOP = '/venues/top-benefits'


def lines(api: ApiProcess, text: str) -> list[str]:
    return [line for line in api.output().splitlines() if text in line]


def wait_until_waiting(rows: Rows) -> None:
    """Wait until a report waits for a lock."""
    query = (
        "select count(*) from pg_locks where relation = 'benefit_usage'::regclass and not granted"
    )
    wait_for(lambda: rows.connection.execute(query).fetchone() == (1,))


def ask(api: ApiProcess) -> int:
    """Ask on a new connection."""
    return httpx.get(f'{api.url}/live', timeout=DEADLINE_S).status_code


@pytest.mark.slow
def test_stuck_worker_is_replaced(sample_url: str, start_api: Callable[..., ApiProcess]) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', API_WORKER_TIMEOUT_S='20')
    wait_for(lambda: len(workers(api)) == 2)
    stuck, other = workers(api)
    suspend(stuck)
    # it has the fewest connections, and nobody waits for it to take some: to leave it each one for
    # as long as it may take a busy worker would be 100 until it is replaced
    taken = 0
    with ExitStack() as stack:
        while workers(api) == [stuck, other] and taken < 200:
            client = stack.enter_context(socket.create_connection(('127.0.0.1', api.port)))
            client.settimeout(DEADLINE_S)
            client.sendall(b'GET /live HTTP/1.1\r\nHost: a\r\n\r\n')
            assert client.recv(1000).startswith(b'HTTP/1.1 200 ')
            taken += 1
    assert taken > 150
    # until it is reaped, which comes before that line, who was killed counts as one of them
    wait_for(lambda: lines(api, 'level=error'))
    wait_for(lambda: len(workers(api)) == 2)
    assert other in workers(api)
    assert ask(api) == 200
    [line] = lines(api, 'level=error')
    assert re.search(r'worker [12] gave no sign of life for \d+ s and was killed', line)


@pytest.mark.slow
def test_service_that_was_paused_keeps_its_workers(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', API_WORKER_TIMEOUT_S='4')
    wait_for(lambda: len(workers(api)) == 2)
    before = workers(api)
    paused = [psutil.Process(api.process.pid), *before]
    for process in paused:
        suspend(process)
    time.sleep(6)  # so long that each of them counts as silent: this is what is tested
    for process in paused:
        process.resume()
    for _ in range(20):
        assert ask(api) == 200
    # so the parent has looked at its workers
    before[0].kill()
    wait_for(lambda: lines(api, 'ended with status -9'))
    assert len(lines(api, 'level=error')) == 1
    assert before[1] in workers(api)


@pytest.mark.slow
def test_worker_that_cannot_start_is_tried_again_with_growing_pauses(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    pid = api.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # no file more than it has, and so no pool and no server in a new worker
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds(), hard))
    workers(api)[0].kill()
    wait_for(lambda: len(lines(api, 'the next starts in')) >= 4)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert ask(api) == 200
    told = [
        re.search(r'worker 1 ended with status (-?\d+); the next starts in (\S+) s', line).groups()
        for line in lines(api, 'the next starts in')
    ]
    assert told[0][0] == '-9'
    assert {status for status, _ in told[1:]} == {'1'}
    pauses = [float(pause) for _, pause in told]
    assert pauses == [0.2 * 2**n for n in range(len(pauses))]
    assert lines(api, 'Too many open files')


def launch_as_an_ordinary_user() -> list[str]:
    """Return what to put before a command, since root is not bound by a limit of processes."""
    if os.getuid() != 0:
        return []
    uid, gid = unprivileged_user()
    # it may read this Python, wherever that is
    caps = [f'--{kind}-caps=+dac_read_search' for kind in ('inh', 'ambient')]
    setpriv = system_program('setpriv', 'util-linux')
    return [setpriv, f'--reuid={uid}', f'--regid={gid}', '--clear-groups', *caps]


@pytest.mark.slow
def test_worker_for_which_there_is_no_process_is_tried_again(
    sample_url: str, tmp_path: Path
) -> None:
    environment = {'DATABASE_URL': sample_url, 'API_WORKERS': '1'}
    launch = launch_as_an_ordinary_user()
    prlimit = system_program('prlimit', 'util-linux')
    api = ApiProcess(tmp_path, environment, launch=launch)
    try:
        set_limit = [*launch, prlimit, f'--pid={api.process.pid}']
        run(*set_limit, '--nproc=1:')
        workers(api)[0].kill()
        told = 'worker 1 cannot start: Resource temporarily unavailable; the next starts in'
        wait_for(lambda: len(lines(api, told)) >= 3)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        run(*set_limit, f'--nproc={"unlimited" if hard == resource.RLIM_INFINITY else hard}:')
        assert ask(api) == 200
    finally:
        assert api.stop() == 0


def test_worker_that_dies_at_the_end_is_not_replaced(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    wait_for(lambda: len(workers(api)) == 2)
    workers(api)[0].kill()
    wait_for(lambda: lines(api, 'ended with status'))
    assert api.stop() == 0
    assert 'Traceback' not in api.output()
    assert 'Bad file descriptor' not in api.output()


@pytest.mark.slow
def test_stuck_workers_end_together(sample_url: str, start_api: Callable[..., ApiProcess]) -> None:
    count, shutdown_s = 8, 8
    assert count * shutdown_s > DEADLINE_S
    api = start_api(
        DATABASE_URL=sample_url, API_WORKERS=str(count), API_SHUTDOWN_TIMEOUT_S=str(shutdown_s)
    )
    wait_for(lambda: len(workers(api)) == count)
    stuck = workers(api)
    for worker in stuck:
        suspend(worker)
    api.process.terminate()
    # one after the other, they would take longer
    assert api.process.wait(DEADLINE_S) == 0
    assert psutil.wait_procs(stuck, DEADLINE_S)[1] == []


def test_worker_that_still_starts_forgets_no_signal(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    parent = psutil.Process(api.process.pid)
    [first] = workers(api)
    first.kill()
    while not (started := set(parent.children()) - {first}):  # no pause: it has just been forked
        pass
    [early] = started
    early.terminate()
    wait_for(lambda: len(lines(api, 'ended with status 0')) == 1)


def test_log_tells_how_it_serves_and_how_it_ends(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='2',
        API_POOL_SIZE='3',
        API_SHUTDOWN_TIMEOUT_S=str(DEADLINE_S),
    )
    with ThreadPoolExecutor() as clients:
        with locked_uses(database_url):
            waiting = clients.submit(httpx.get, api.url + TOP, timeout=DEADLINE_S)
            wait_until_waiting(rows)
            api.process.terminate()
            wait_for(lambda: len(lines(api, 'requests in progress')) == 2)
        assert waiting.result().status_code == 200
    assert api.stop() == 0
    *_, last = api.output().splitlines()
    [begin] = lines(api, 'listening on ')
    assert re.search(r'listening on \S+" version=\d+\.\d+\S* workers=2 pool_size=3$', begin)
    assert last.endswith('event=stopped')
    assert len(lines(api, 'event=stopping')) == 1
    told = [int(line[-2]) for line in lines(api, 'requests in progress')]
    assert sorted(told) == [0, 1]


def test_interrupt_while_it_is_imported_prints_no_traceback(sample_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=patient_environment() | {'DATABASE_URL': sample_url, 'API_PORT': '0'},
        stderr=subprocess.PIPE,
        text=True,
    ) as starting:
        # falcon comes first and psycopg a moment later
        maps = Path('/proc', str(starting.pid), 'maps')
        wait_for(lambda: 'site-packages' in maps.read_text())
        starting.send_signal(signal.SIGINT)
        _, printed = starting.communicate(timeout=DEADLINE_S)
    assert 'Traceback' not in printed
    assert starting.returncode in (0, -signal.SIGINT)


@pytest.mark.parametrize('closed', ['2>&-', '0<&- 1>&- 2>&-'])
def test_closed_descriptors_become_no_other_file(
    sample_url: str, unused_port: int, closed: str
) -> None:
    environment = {'DATABASE_URL': sample_url, 'API_PORT': str(unused_port), 'API_WORKERS': '1'}
    with subprocess.Popen(
        ['sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-m', 'api'],
        cwd=ROOT,
        env=patient_environment() | environment,
    ) as process:
        try:
            wait_for(lambda: is_live(unused_port))
            parent = psutil.Process(process.pid)
            for each in (parent, *parent.children()):
                assert str(Path(f'/proc/{each.pid}/fd/2').readlink()) == '/dev/null'
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0


def is_live(port: int) -> bool:
    try:
        return httpx.get(f'http://127.0.0.1:{port}/live', timeout=DEADLINE_S).status_code == 200
    except httpx.ConnectError:
        return False
