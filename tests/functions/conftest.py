"""Where the rules are tested: with each folder of files, and with the uses on several servers."""

from collections.abc import Iterator

import pytest

from tests.functions.shards import Shards, citus_cluster, foreign_servers
from tests.support.postgres import cloned
from tests.support.rows import ORACLES, PLAIN, Rows, open_rows
from tools.embedded import EmbeddedServer

# on one server, the files of either folder; on several servers, those of db/functions
FOLDERS = {'functions': [], 'plain': [PLAIN]}
SEVERAL_SERVERS = ['citus_cluster', 'foreign_servers']


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


@pytest.fixture(params=[*FOLDERS, *SEVERAL_SERVERS])
def rows(request: pytest.FixtureRequest) -> Iterator[Rows]:
    """Return a writer for a database with venue 1 and person 1, and no other rows, in place."""
    if request.param in FOLDERS:
        url = request.getfixturevalue('database_url')
        with open_rows(url, FOLDERS[request.param]) as writer:
            yield writer
    else:
        with open_rows(request.getfixturevalue(request.param).url) as writer:
            yield writer
            for table in ('benefit_usage', 'benefit', 'person', 'venue'):
                writer.connection.execute(f'delete from {table}')
