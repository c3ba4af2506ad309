"""Fixtures that run the tests of the rules on each folder of SQL files, and on shards."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.functions.shards import Shards, citus_cluster, foreign_servers
from tests.support.postgres import cloned
from tests.support.rows import ORACLES, PLAIN, Rows, open_rows
from tools.embedded import EmbeddedServer

# each folder on one server; on several servers, only db/functions
FOLDERS = {'functions': [], 'plain': [PLAIN]}
SEVERAL_SERVERS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ('citus_cluster', 'foreign_servers')
]


@pytest.fixture(scope='session', name='citus_cluster')
def _citus_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with citus_cluster(tmp_path_factory.mktemp('citus')) as shards:
        yield shards


@pytest.fixture(scope='session', name='foreign_servers')
def _foreign_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with foreign_servers(tmp_path_factory.mktemp('functions')) as shards:
        yield shards


@pytest.fixture
def oracle(server: EmbeddedServer) -> Iterator[Rows]:
    """Return the rows of another database, on which the plain forms run."""
    with cloned(server) as url, open_rows(url, ORACLES) as writer:
        yield writer


@pytest.fixture(scope='session')
def shared_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database in which no test leaves rows."""
    with cloned(server) as url:
        yield url


@pytest.fixture(params=[*FOLDERS, *SEVERAL_SERVERS])
def rows(request: pytest.FixtureRequest, shared_url: str) -> Iterator[Rows]:
    """Return the rows of a database, which are only venue 1 and person 1."""
    folders = FOLDERS.get(request.param)
    url = shared_url if folders is not None else request.getfixturevalue(request.param).url
    # rolling a transaction back takes less time than creating a database
    with (
        psycopg.connect(url, autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        writer = Rows(connection, folders or [])
        writer.venues(1)
        writer.people(1)
        yield writer
