"""A session of the service prepares each function file once, whatever the values."""

from collections.abc import Iterator

import psycopg
import pytest
from api.database.functions import FOLDER, Function, load_function
from api.database.sessions import Session

from api.config import Settings
from tests.support import Rows
from tools.embedded import EmbeddedServer, load

FUNCTIONS = [load_function(path) for path in sorted(FOLDER.glob('*.sql'))]
IDS = [1, 2**15, 2**31, 2**63 - 1]
TIMESTAMPS = [None, '2024-07-01T12:00:00+00:00', '0002-01-01T00:00:00.000001+00:00']


@pytest.fixture
def session(rows: Rows, database_url: str) -> Iterator[Session]:
    """Return a session that is set up as those of the service's pool."""
    rows.benefit(1)
    with Session.connect(database_url, autocommit=True) as connection:
        connection.set_up(Settings(database_url=database_url))
        yield connection


def run_with_all_values(session: Session, function: Function) -> None:
    for id_ in IDS:
        for timestamp in TIMESTAMPS:
            values = {bind.name: id_ for bind in function.binds} | {'timestamp': timestamp}
            body, _ = session.execute(function.sql, values, prepare=True).fetchone()
            assert bytes(body).startswith(b'[')


@pytest.mark.parametrize('function', FUNCTIONS, ids=lambda function: function.name)
def test_ids_and_timestamps_of_any_size_share_one_statement(
    session: Session, function: Function
) -> None:
    run_with_all_values(session, function)
    [[types]] = session.execute(
        'select parameter_types::text[] from pg_prepared_statements', prepare=False
    ).fetchall()
    written = {'bigint': 'bigint', 'timestamptz': 'timestamp with time zone'}
    assert types == [written[bind.type] for bind in function.binds]


def test_session_has_one_statement_a_file_which_names_it(session: Session) -> None:
    for function in FUNCTIONS * 2:
        run_with_all_values(session, function)
    statements = session.execute(
        'select statement from pg_prepared_statements order by statement', prepare=False
    ).fetchall()
    assert len(statements) == len(FUNCTIONS)
    for function, (statement,) in zip(FUNCTIONS, statements, strict=True):
        assert statement.startswith(f'/* {function.name}.sql */')


@pytest.fixture(scope='module')
def watching_server() -> Iterator[EmbeddedServer]:
    """Return a server that records every statement in the ways that DBAs use."""
    with EmbeddedServer(
        shared_preload_libraries='pg_stat_statements,auto_explain',
        **{'auto_explain.log_min_duration': '0'},
    ) as embedded:
        load(embedded.url(), 'schema.sql')
        yield embedded


@pytest.mark.parametrize('function', FUNCTIONS, ids=lambda function: function.name)
def test_server_names_the_file_of_every_statement(
    watching_server: EmbeddedServer, function: Function
) -> None:
    comment = f'/* {function.name}.sql */'
    assert function.sql.count(comment) == 2
    with psycopg.connect(watching_server.url(), autocommit=True) as connection:
        connection.execute('create extension if not exists pg_stat_statements')
        values = dict.fromkeys((bind.name for bind in function.binds), None) | {'venue_id': 1}
        connection.execute(function.sql, values, prepare=True)
        [counted] = connection.execute(
            'select calls from pg_stat_statements where query like %s', [f'%{comment}%']
        ).fetchall()
    assert counted == (1,)
    assert f'Query Text: {comment} with {comment} ' in watching_server.read_bootlog()
