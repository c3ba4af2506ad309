"""Where the rules are tested: with each folder of files, and with the uses on several servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.database.functions import FOLDER
from db.embedded import EmbeddedServer
from tests.functions.shards import CITUS_FILES, Shards, citus_cluster, foreign_servers
from tests.support import Rows, cloned, open_rows

PLAIN = Path(__file__).parent / 'plain'
# on an ordinary database, the files of each folder
ORDINARY = {'functions': FOLDER, 'citus': CITUS_FILES}
PLACES = [*ORDINARY, 'citus_cluster', 'foreign_servers']


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
    with cloned(server) as url, open_rows(url, PLAIN) as writer:
        yield writer


@pytest.fixture(params=PLACES)
def rows(request: pytest.FixtureRequest) -> Iterator[Rows]:
    """Return a writer for a database with venue 1 and person 1, and no other rows, in place."""
    if request.param in ORDINARY:
        url = request.getfixturevalue('database_url')
        with open_rows(url, ORDINARY[request.param]) as writer:
            yield writer
    else:
        shards = request.getfixturevalue(request.param)
        with open_rows(shards.url, shards.folder) as writer:
            yield writer
            for table in ('benefit_usage', 'benefit', 'person', 'venue'):
                writer.connection.execute(f'delete from {table}')
