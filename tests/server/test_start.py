"""Starting: an error ends it with one line; an unavailable database does not."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.machine import free_port, is_listening
from tests.support.rows import Rows, locked_uses, wait_until_busy
from tests.support.service import BRIEF, TOP, ApiProcess, start_service, workers
from tests.support.waiting import DEADLINE_S, wait_for
from tools.embedded import EmbeddedServer, load

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


@contextmanager
def starting(url: str, log: int | None = None, **environment: str) -> Iterator[subprocess.Popen]:
    """Start the service, and do not wait until it serves."""
    with start_service({'DATABASE_URL': url} | environment, stderr=log) as service:
        try:
            yield service
        finally:
            service.kill()


def failed_start(url: str, **environment: str) -> str:
    """Start the service, which fails; returns the only line that is not of the log's form."""
    with starting(url, subprocess.PIPE, **environment) as service:
        printed = service.communicate(timeout=DEADLINE_S)[1].decode()
    assert service.returncode == 1
    [line] = [line for line in printed.splitlines() if not line.startswith('timestamp=')]
    return line


def test_sql_file_that_the_database_refuses_ends_the_start_with_one_line(
    rows: Rows, database_url: str
) -> None:
    rows.connection.execute('alter table benefit drop column title')
    line = failed_start(f'{database_url}&password=hunter2')
    found = re.fullmatch(
        r'error: (/.*/available_benefits\.sql) line (\d+): column benefit\.title does not exist'
        r' \(host=.* dbname=clone_\d+ user=postgres\)',
        line,
    )
    assert 'benefit.title' in Path(found[1]).read_text().splitlines()[int(found[2]) - 1]
    assert 'hunter2' not in line


@pytest.mark.slow
def test_port_in_use_ends_the_start(api: ApiProcess, sample_url: str) -> None:
    with starting(sample_url, subprocess.PIPE, API_PORT=str(api.port)) as service:
        printed = service.communicate(timeout=DEADLINE_S)[1].decode()
    assert service.returncode == 1
    assert f"Connection in use: ('127.0.0.1', {api.port})" in printed


def test_workers_are_as_many_as_configured(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='3')
    wait_for(lambda: len(workers(api)) == 3)
    api.stop()
    assert api.output().count('Using worker: ') == 1  # no worker repeats a line of the parent


def test_service_starts_without_its_database_and_finds_it_later(
    start_api: Callable[..., ApiProcess],
) -> None:
    with EmbeddedServer() as own:
        load(own.url(), 'schema.sql', 'indexes.sql')
        own.terminate()
        api = start_api(DATABASE_URL=own.url(), **BRIEF)
        assert 'level=warning event="the database cannot be checked: ' in api.output()
        assert [api.get(path).status_code for path in ('/live', '/ready')] == [200, 503]
        own.start()
        wait_for(lambda: api.get('/ready').status_code == 200)
        assert api.get(TOP).status_code == 200


def test_lock_delays_a_start_and_does_not_prevent_it(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    with locked_uses(database_url):
        api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='1')
        assert api.get('/live').status_code == 200
        assert re.search(r'level=warning event="/\S+ exceeds statement_timeout_s, or', api.output())
    assert api.get(TOP).status_code == 200


@pytest.mark.parametrize('number', SIGNALS)
def test_signal_ends_a_start_that_waits_for_a_lock(
    rows: Rows, database_url: str, number: signal.Signals
) -> None:
    with locked_uses(database_url), starting(database_url) as service:
        wait_until_busy(rows, 'top')
        service.send_signal(number)
        assert service.wait(DEADLINE_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize('number', SIGNALS)
def test_signal_ends_a_service_whose_log_nobody_reads(
    sample_url: str, number: signal.Signals
) -> None:
    port = free_port()
    with full_pipe() as log, starting(sample_url, log, API_PORT=str(port)) as service:
        wait_for(lambda: is_listening(port))
        service.send_signal(number)
        assert service.wait(DEADLINE_S) == 0
        wait_for(lambda: not is_listening(port))


@contextmanager
def full_pipe() -> Iterator[int]:
    """Fill a pipe that nobody reads; yields the end for writing."""
    unread, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(unread)
    os.close(writing)
