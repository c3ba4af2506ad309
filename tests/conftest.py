"""Fixtures: one PostgreSQL server per run, one database per test, and API processes."""

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.postgres import cloned
from tests.support.rows import Rows, open_rows
from tests.support.service import ApiProcess
from tools.embedded import EmbeddedServer, load

# nohup, and shells that start jobs in the background, make processes ignore these signals, which
# tests send
for number, handler in {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
}.items():
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# some tests open more connections than the usual limit of open files allows
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@pytest.fixture(scope='session')
def server() -> Iterator[EmbeddedServer]:
    """Run a server with a template database: the schema and the recommended indexes."""
    with EmbeddedServer() as embedded:
        load(embedded.url(), 'schema.sql', 'indexes.sql')
        yield embedded


@pytest.fixture
def database_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of an empty database for the test."""
    with cloned(server) as url:
        yield url


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    """Return the rows of the test's database, which are venue 1 and person 1."""
    with open_rows(database_url) as writer:
        yield writer


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[Callable[..., ApiProcess]]:
    """Return a function that starts an API process; its arguments are environment variables."""
    started = []

    def start(**environment: str) -> ApiProcess:
        started.append(ApiProcess(tmp_path, environment))
        return started[-1]

    yield start
    for api in started:
        api.stop()


@pytest.fixture(scope='session')
def sample_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database with the sample data; it is only read."""
    with cloned(server) as url:
        load(url, 'sample_data.sql')
        yield url


@pytest.fixture(scope='session')
def api(sample_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Return an API process on the sample data."""
    process = ApiProcess(tmp_path_factory.mktemp('api'), {'DATABASE_URL': sample_url})
    yield process
    process.stop()
