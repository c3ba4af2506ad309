"""The server process: what it checks at the start, its workers, and how it ends."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.server.check import MISSING_INDEXES
from tests.support import (
    DEADLINE_S,
    ApiProcess,
    Rows,
    locked_uses,
    wait_for,
    wait_until_busy,
    workers,
)

TOP = '/venues/top-benefits'
AVAILABLE = '/venues/1/available-benefits?personId=1'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            'drop table benefit_usage',
            r'top_benefits\.sql line \d+: relation "benefit_usage" does not exist',
        ),
        (
            'alter table benefit_usage alter "usageTimestamp" type text',
            r'top_benefits\.sql line \d+: operator does not exist: text > timestamp',
        ),
    ],
)
def test_database_that_lacks_something_ends_the_start_with_one_line(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], change: str, message: str
) -> None:
    rows.connection.execute(change)
    with pytest.raises(AssertionError) as failure:
        start_api(DATABASE_URL=f'{database_url}&password=hunter2')
    lines = str(failure.value).splitlines()[1:]
    assert len(lines) == 1
    assert re.match(
        f'error: /.*/{message}.* \\(database clone_\\d+ on .* as postgres\\)$', lines[0]
    )
    assert 'hunter2' not in lines[0]


def test_line_is_that_of_the_file(rows: Rows, database_url: str, start_api: Callable) -> None:
    rows.connection.execute('alter table benefit drop column title')
    with pytest.raises(AssertionError) as failure:
        start_api(DATABASE_URL=database_url)
    number = int(re.search(r'available_benefits\.sql line (\d+)', str(failure.value))[1])
    from api.database.functions import FOLDER  # noqa: PLC0415

    line = (FOLDER / 'available_benefits.sql').read_text().splitlines()[number - 1]
    assert 'benefit.title' in line


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
    rows: Rows, database_url: str, start_api: Callable, index: str, named: str
) -> None:
    rows.connection.execute(f'drop index {index}')
    api = start_api(DATABASE_URL=database_url)
    [warning] = [line for line in api.output().splitlines() if 'level=warning' in line]
    assert warning.endswith(f'see db/indexes.sql: {named}"')
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


def test_invalid_index_is_a_warning_that_tells_how_to_mend_it(
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


def test_indexes_that_are_there_or_longer_give_no_warning(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    rows.connection.execute('drop index benefit_venue_id_idx')
    rows.connection.execute('create index on benefit ("venueId", lower(title))')
    assert 'level=warning' not in start_api(DATABASE_URL=database_url).output()


def test_sessions_name_their_worker(api: ApiProcess, sample_url: str) -> None:
    import psycopg  # noqa: PLC0415

    for _ in range(20):
        assert httpx.get(api.url + AVAILABLE, timeout=DEADLINE_S).status_code == 200
    query = (
        'select distinct application_name from pg_stat_activity'
        " where datname = current_database() and application_name like 'membership%'"
    )
    expected = {f'membership-benefits-api/{number}' for number in range(1, len(workers(api)) + 1)}
    with psycopg.connect(sample_url, autocommit=True) as connection:
        # until those of the check, and of services before this one, have ended
        wait_for(lambda: set() < {name for (name,) in connection.execute(query)} <= expected)


def test_workers_are_as_many_as_configured(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='3')
    wait_for(lambda: len(workers(api)) == 3)


def test_slow_report_does_not_hold_up_the_quick_ones(
    rows: Rows, database_url: str, start_api: Callable
) -> None:
    timeout_s = 2 * DEADLINE_S
    api = start_api(
        DATABASE_URL=database_url, API_WORKERS='1', API_STATEMENT_TIMEOUT_S=str(timeout_s)
    )
    with ThreadPoolExecutor(3) as clients:
        with locked_uses(database_url):
            paths = [f'{AVAILABLE}&timestamp=2024-07-0{day}' for day in range(1, 4)]
            slow = [clients.submit(httpx.get, api.url + path, timeout=timeout_s) for path in paths]
            wait_until_busy(rows)
            for _ in range(20):
                assert httpx.get(f'{api.url}/live', timeout=DEADLINE_S).status_code == 200
            assert not any(answer.done() for answer in slow)
        assert [answer.result().status_code for answer in slow] == [200] * 3
