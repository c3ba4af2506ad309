"""A connection prepares each SQL file once, whatever the values."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from api.config import Settings
from api.database.connection import Connection, connection_parameters
from api.database.queries import FOLDER, Query, load_query
from tests.support.rows import Rows
from tools.embedded import EmbeddedServer, load

QUERIES = [load_query(path) for path in sorted(FOLDER.glob('*.sql'))]
IDS = ['1', str(2**15), str(2**31), str(2**63 - 1)]
TIMESTAMPS = [None, '2024-07-01T12:00:00+00:00', '0002-01-01T00:00:00.000001+00:00']


@pytest.fixture
def connection(rows: Rows, database_url: str) -> Iterator[Connection]:
    """Return a connection that is set up like those of the pool."""
    rows.benefit(1)
    settings = Settings(database_url=database_url)
    with Connection.connect(**connection_parameters(settings)) as opened:
        opened.set_up(settings)
        yield opened


def test_connection_has_one_statement_a_file_which_names_it(connection: Connection) -> None:
    for query in QUERIES:
        for id_, timestamp in itertools.product(IDS, TIMESTAMPS):
            values = [id_ if each.type == 'bigint' else timestamp for each in query.parameters]
            body, _ = connection.execute(query.sql, values, prepare=True).fetchone()
            assert bytes(body).startswith(b'[')
    statements = connection.execute(
        'select statement, parameter_types::text[] from pg_prepared_statements order by statement',
        prepare=False,
    ).fetchall()
    written = {'bigint': 'bigint', 'timestamptz': 'timestamp with time zone'}
    for query, (statement, types) in zip(QUERIES, statements, strict=True):
        assert f' /* {query.path.name} */ ' in statement
        assert types == [written[each.type] for each in query.parameters]


@pytest.fixture(scope='module')
def watching_server() -> Iterator[EmbeddedServer]:
    """Return a server with pg_stat_statements, and with auto_explain for all statements."""
    with EmbeddedServer(
        shared_preload_libraries='pg_stat_statements,auto_explain',
        **{'auto_explain.log_min_duration': '0'},
    ) as embedded:
        load(embedded.url(), 'schema.sql')
        yield embedded


@pytest.mark.parametrize('query', QUERIES, ids=lambda query: query.path.stem)
def test_server_names_the_file_of_every_statement(
    watching_server: EmbeddedServer, query: Query
) -> None:
    comment = f'/* {query.path.name} */'
    with psycopg.connect(watching_server.url(), autocommit=True) as connection:
        connection.execute('create extension if not exists pg_stat_statements')
        values = ['1' if each.name == 'venue_id' else None for each in query.parameters]
        psycopg.RawCursor(connection).execute(query.sql, values, prepare=True)
        [counted] = connection.execute(
            'select calls from pg_stat_statements where query like %s', [f'%{comment}%']
        ).fetchall()
    assert counted == (1,)
    assert f'with {comment} params' in watching_server.read_bootlog()
