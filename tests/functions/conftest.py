"""Where the rules are tested: with each folder of files, and with the uses on several servers."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.functions.shards import Shards, citus_cluster, foreign_servers
from tests.support.postgres import cloned
from tests.support.rows import ORACLES, PLAIN, Rows, open_rows
from tools.embedded import EmbeddedServer

# on one server, the files of either folder; on several servers, those of db/functions
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
    """Return a writer for another such database, on which the plain forms answer."""
    with cloned(server) as url, open_rows(url, ORACLES) as writer:
        yield writer


@pytest.fixture(scope='session')
def shared_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database in which no test leaves anything."""
    with cloned(server) as url:
        yield url


@pytest.fixture(params=[*FOLDERS, *SEVERAL_SERVERS])
def rows(request: pytest.FixtureRequest, shared_url: str) -> Iterator[Rows]:
    """Return a writer for a database with venue 1 and person 1, and no other rows, in place."""
    folders = FOLDERS.get(request.param)
    url = shared_url if folders is not None else request.getfixturevalue(request.param).url
    # a transaction that is rolled back costs less than a database
    with (
        psycopg.connect(url, autocommit=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        writer = Rows(connection, folders or [])
        writer.venues(1)
        writer.people(1)
        yield writer
