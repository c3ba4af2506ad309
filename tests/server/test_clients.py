"""The resources that clients can occupy: connections, time and memory, but no files."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from api.server.service import MAX_CONNECTIONS
from tests.server.crowd import Crowd, ask, read, request
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import TOP, ApiProcess, connection_counts, settled_output, workers
from tests.support.waiting import wait_for


def test_connection_beyond_the_limit_waits_until_another_one_ends(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    with Crowd(api.port) as crowd:
        first, *others = crowd.connect(MAX_CONNECTIONS)
        [late] = crowd.connect(1)
        ask(late, '/live')
        for _ in range(20):
            ask(first, '/live')
            assert read(first)[0] == 200
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.recv(1)
        late.setblocking(True)
        for other in others[:20]:
            other.close()
        assert read(late)[0] == 200


@pytest.mark.slow
def test_connections_are_accepted_again_when_there_are_file_descriptors(
    sample_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    settled_output(api)  # from every worker
    with Crowd(api.port) as crowd:
        for worker in workers(api):
            _, highest = worker.rlimit(psutil.RLIMIT_NOFILE)
            worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 5, highest))
        clients = crowd.connect(20)
        for client in clients:
            ask(client, '/live')
        wait_for(lambda: api.output().count('Too many open files') > 4)
        for worker in workers(api):
            worker.rlimit(psutil.RLIMIT_NOFILE, (highest, highest))
        assert {read(client)[0] for client in clients} == {200}
        settled_output(api)  # from every worker again


@pytest.mark.slow
def test_clients_that_neither_send_nor_read_are_disconnected(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(DATABASE_URL=database_url, API_CLIENT_TIMEOUT_S='2')
    with Crowd(api.port) as crowd:
        idle, reading_nothing = crowd.connect(2)
        reading_nothing.sendall(5 * request(TOP))
        assert idle.recv(1) == b''
        wait_for(lambda: sum(connection_counts(api)) == 0)
    api.stop()
    assert 'level=error' not in api.output()
    # requests wait until the response to the one before is sent
    assert api.output().count(f'route={TOP} status=') == 1


@pytest.mark.slow
def test_pipelined_answers_that_exceed_the_buffers_arrive_when_the_client_reads(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.many_venues()
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1')
    size = len(api.get(TOP, headers={'Accept-Encoding': 'identity'}).content)
    assert size > 2**22  # more than the kernel takes
    with Crowd(api.port) as crowd:
        [client] = crowd.connect(1)
        last = request(TOP).replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n')
        client.sendall(3 * request(TOP) + last)
        wait_for(lambda: f'route={TOP} ' in api.output())
        received = 0
        while chunk := client.recv(65536):
            received += len(chunk)
    assert received > 4 * size


def test_pipelined_request_does_not_delay_the_response_before_it(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=database_url)
    with Crowd(api.port) as crowd, locked_uses(database_url):
        [client] = crowd.connect(1)
        client.sendall(request('/live') + request(TOP))
        assert read(client)[0] == 200
        wait_until_busy(rows, 'top')


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB over an empty folder; yields that."""
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m,mode=1777', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip('no right to mount a file system on this machine')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free on the file system of a folder."""
    with (folder / 'filling').open('wb', buffering=0) as file:
        while os.statvfs(folder).f_bfree:
            file.write(bytes(4096))


@pytest.mark.slow
def test_full_temporary_folder_costs_nothing(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], tmp_path: Path
) -> None:
    rows.many_venues()
    folder = tmp_path / 'temporary'
    folder.mkdir()
    with small_file_system(folder):
        api = start_api(DATABASE_URL=database_url, API_WORKERS='1', TMPDIR=str(folder))
        # Python chooses the folder when it first needs one, and then a full one counts too
        api.get(TOP, headers={'Accept-Encoding': 'identity'})
        fill(folder)
        with Crowd(api.port) as crowd:
            clients = crowd.connect(4)
            for client in clients:
                ask(client, TOP)
            assert api.get('/live').status_code == 200
            sizes = [len(read(client)[1]) for client in clients]
        assert min(sizes) > 10 * 2**20
        assert [path.name for path in folder.iterdir()] == ['filling']
        api.stop()
