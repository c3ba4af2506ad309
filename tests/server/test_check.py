"""`python -m api --check`, and the same check at every start: errors and warnings."""

import pytest
from psycopg.conninfo import make_conninfo

from api.server.check import MISSING_INDEXES
from tests.support.commands import reason, run_check
from tests.support.postgres import cloned
from tests.support.rows import Rows
from tools.embedded import EmbeddedServer, load


def test_missing_indexes_are_one_warning(rows: Rows, database_url: str) -> None:
    for index in (
        'benefit_venue_id_idx',
        'benefit_usage_benefit_id_usage_timestamp_idx',
        'benefit_usage_person_id_benefit_id_usage_timestamp_idx',
    ):
        rows.connection.execute(f'drop index {index}')
    [warning] = run_check(database_url).stderr.splitlines()
    assert 'see db/indexes.sql: ' in warning
    assert set(warning.partition('sql: ')[2].split('; ')) == {
        'benefit (venueId)',
        'benefit_usage (benefitId, usageTimestamp)',
        'benefit_usage (personId, benefitId, usageTimestamp)',
    }
    # indexes with further columns are accepted
    for index in (
        'benefit ("venueId", lower(title))',
        'benefit_usage ("benefitId", "usageTimestamp", id)',
        'benefit_usage ("personId", "benefitId", "usageTimestamp")',
    ):
        rows.connection.execute(f'create index on {index}')
    assert run_check(database_url).stderr == ''


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


def test_invalid_index_is_a_warning_that_says_how_to_repair_it(
    rows: Rows, database_url: str
) -> None:
    index = 'benefit_usage_benefit_id_usage_timestamp_idx'
    rows.connection.execute(
        'update pg_index set indisvalid = false where indexrelid = %s::regclass', [index]
    )
    [warning] = run_check(database_url).stderr.splitlines()
    repair = f'reindex index concurrently {index}'
    index_of = 'benefit_usage (benefitId, usageTimestamp)'
    assert warning.endswith(f'{index_of}, invalid, repair with: {repair}')
    rows.connection.execute(repair)
    assert run_check(database_url).stderr == ''


def test_database_without_an_encoding_is_refused(server: EmbeddedServer) -> None:
    with cloned(server, "encoding 'SQL_ASCII' template template0") as url:
        load(url, 'schema.sql', 'indexes.sql')
        assert 'SQL_ASCII' in reason(run_check(url))


@pytest.mark.parametrize(
    ('name', 'value', 'told'),
    [
        ('dbname', 'nothing', 'database "nothing" does not exist (host='),
        ('host', 'nowhere.invalid', ' (host=nowhere.invalid port=5432 dbname=test user=postgres)'),
    ],
)
def test_check_tells_why_and_where_the_database_cannot_be_reached(
    server: EmbeddedServer, name: str, value: str, told: str
) -> None:
    url = make_conninfo(server.url(), **{'password': 'hunter2', name: value})
    line = reason(run_check(url))
    assert line.startswith('error: the database cannot be checked: ')
    assert told in line
    assert 'hunter2' not in line
