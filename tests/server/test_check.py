"""`python -m api --check`, and the same check at every start: what it refuses and warns of."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from api.server.check import MISSING_INDEXES
from tests.support.commands import reason, run_check
from tests.support.postgres import GuardedServer
from tests.support.rows import Rows
from tests.support.service import ApiProcess
from tests.support.waiting import wait_for
from tools.embedded import EmbeddedServer, load

TOP = '/venues/top-benefits'


@pytest.mark.parametrize(
    ('index', 'named'),
    [
        ('benefit_venue_id_idx', 'benefit (venueId)'),
        (
            'benefit_usage_benefit_id_usage_timestamp_idx',
            'benefit_usage (benefitId, usageTimestamp)',
        ),
        (
            'benefit_usage_person_id_benefit_id_usage_timestamp_idx',
            'benefit_usage (personId, benefitId, usageTimestamp)',
        ),
    ],
)
def test_missing_index_is_one_warning(
    rows: Rows, database_url: str, index: str, named: str
) -> None:
    rows.connection.execute(f'drop index {index}')
    [warning] = run_check(database_url).stderr.splitlines()
    assert warning.endswith(f'see db/indexes.sql: {named}')
    assert 'db/plain' in warning


@pytest.mark.parametrize(
    'unfit',
    [
        '("benefitId") include ("usageTimestamp")',
        '(abs(id), "benefitId", "usageTimestamp")',
        '("benefitId", "usageTimestamp") where id > 7',
        'using brin ("benefitId", "usageTimestamp")',
        '("usageTimestamp", "benefitId")',
    ],
)
def test_index_that_does_not_sort_by_the_columns_does_not_count(
    rows: Rows, database_url: str, unfit: str
) -> None:
    rows.connection.execute('drop index benefit_usage_benefit_id_usage_timestamp_idx')
    rows.connection.execute(f'create index on benefit_usage {unfit}')
    [[missing]] = rows.connection.execute(MISSING_INDEXES.read_bytes()).fetchall()
    assert missing == 'benefit_usage (benefitId, usageTimestamp)'


def test_invalid_index_is_a_warning_at_a_start_that_says_how_to_mend_it(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    index = 'benefit_usage_benefit_id_usage_timestamp_idx'
    rows.connection.execute(
        'update pg_index set indisvalid = false where indexrelid = %s::regclass', [index]
    )
    api = start_api(DATABASE_URL=database_url)
    [warning] = [line for line in api.output().splitlines() if 'level=warning' in line]
    mend = f'reindex index concurrently {index}'
    assert warning.endswith(f'benefit_usage (benefitId, usageTimestamp), invalid until: {mend}"')
    rows.connection.execute(mend)
    assert 'level=warning' not in start_api(DATABASE_URL=database_url).output()


def test_indexes_that_are_there_or_longer_give_no_warning(rows: Rows, database_url: str) -> None:
    rows.connection.execute('drop index benefit_venue_id_idx')
    rows.connection.execute('create index on benefit ("venueId", lower(title))')
    assert run_check(database_url).stderr == ''


def test_database_without_an_encoding_is_refused(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
        admin.execute("create database no_encoding encoding 'SQL_ASCII' template template0")
    try:
        load(server.url(database='no_encoding'), 'schema.sql', 'indexes.sql')
        assert 'SQL_ASCII' in reason(run_check(server.url(database='no_encoding')))
    finally:
        with psycopg.connect(server.url(database='postgres'), autocommit=True) as admin:
            admin.execute('drop database no_encoding with (force)')


@pytest.fixture(scope='module')
def guarded() -> Iterator[GuardedServer]:
    """Return a server with two roles that may not log in, and one that may."""
    with GuardedServer() as guarded_server:
        load(guarded_server.url(), 'schema.sql', 'indexes.sql')
        with psycopg.connect(guarded_server.url(), autocommit=True) as admin:
            admin.execute("create role nobody_at_home nologin password 'hunter2'")
            admin.execute("create role outsider login password 'hunter2'")
        yield guarded_server


FAILURES = {
    'wrong password': ('user=reader password=hunter3', 'password authentication failed'),
    'no password': ('user=reader', 'no password supplied'),
    'no login': ('user=nobody_at_home password=hunter2', 'is not permitted to log in'),
    'unknown database': (
        'user=reader password=hunter2 dbname=nothing',
        'database "nothing" does not exist',
    ),
    'pg_hba': ('user=outsider password=hunter2', 'pg_hba.conf rejects connection'),
    'refused port': ('user=reader password=hunter2 port=1', 'Connection refused'),
    'unknown host': ('user=reader password=hunter2 host=nowhere.invalid', 'nowhere.invalid'),
    'no TLS': ('user=reader password=hunter2 sslmode=require', 'does not support SSL'),
}


def described(guarded: GuardedServer, changes: str) -> tuple[str, str]:
    """Return a connection string, and how the log names what it leads to."""
    parameters = {'host': '127.0.0.1', 'port': guarded.settings['port'], 'dbname': 'test'}
    parameters |= dict(change.split('=') for change in changes.split())
    place = '(host={host} port={port} dbname={dbname} user={user})'.format(**parameters)
    return ' '.join(f'{name}={value}' for name, value in parameters.items()), place


@pytest.mark.slow
@pytest.mark.parametrize('failure', FAILURES)
def test_check_tells_why_the_database_cannot_be_reached(
    guarded: GuardedServer, failure: str
) -> None:
    changes, told = FAILURES[failure]
    url, place = described(guarded, changes)
    line = reason(run_check(url))
    assert line.startswith('error: the database cannot be checked: ')
    assert told in line
    assert line.endswith(place)
    assert 'hunter' not in line


def test_service_tells_why_to_nobody_but_its_log(
    guarded: GuardedServer, start_api: Callable[..., ApiProcess]
) -> None:
    changes, told = FAILURES['wrong password']
    url, place = described(guarded, changes)
    api = start_api(DATABASE_URL=url, API_POOL_TIMEOUT_S='0.3')
    wait_for(lambda: 'level=warning event="error connecting in ' in api.output())
    for event in ('event="the database cannot be checked: ', 'event="error connecting in '):
        [line, *_] = [line for line in api.output().splitlines() if event in line]
        assert told in line
        assert place in line
    assert 'hunter' not in api.output()
    for path in (TOP, '/ready'):
        answer = api.get(path)
        assert answer.status_code == 503
        for secret in (told, place, 'reader', '127.0.0.1'):
            assert secret not in answer.text
