"""What the database sees of a session, and how often a statement runs that fails."""

from collections.abc import Callable

import psycopg
import pytest

from api.http.problems import PROBLEMS
from tests.support import ApiProcess, Rows, make_slow, metric, reason, run_check, wait_for

AVAILABLE = '/venues/1/available-benefits?personId=1'
SETTINGS = ('statement_timeout', 'timezone', 'transaction_read_only', 'client_encoding')


def replace_by_view(rows: Rows, columns: str, condition: str) -> None:
    """Put a view in the place of the table of benefits."""
    rows.connection.execute('alter table benefit rename to benefit_rows')
    rows.connection.execute(
        f'create view benefit as select {columns} from benefit_rows where {condition}'
    )


def test_session_is_set_as_configured(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.benefit(1)
    shown = " || ' ' || ".join(f"current_setting('{name}')" for name in SETTINGS)
    replace_by_view(rows, f'id, "venueId", {shown} as title, recurrence', 'true')
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='7')
    [benefit] = api.get(AVAILABLE).json()
    assert benefit['title'] == '7s UTC on UTF8'


@pytest.mark.slow
def test_report_has_a_timeout_of_its_own(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    make_slow(rows, 0.6)
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='1',  # so both run in the same session
        API_STATEMENT_TIMEOUT_S='0.2',
        API_REPORT_TIMEOUTS_S='{inactivity_periods = 60}',
    )
    for _ in range(2):
        answer = api.get(AVAILABLE)
        assert answer.status_code == 504
        assert answer.json()['detail'] == PROBLEMS['statement-timeout'].meaning
        assert api.get('/venues/1/inactivity-periods').status_code == 200
    wait_for(lambda: 'level=warning event="statement cancelled: 57014"' in api.output())


def test_report_that_is_not_there_has_no_timeout(database_url: str) -> None:
    checked = run_check(database_url, API_REPORT_TIMEOUTS_S='{worst_benefits = 9}')
    reports = 'top_benefits, available_benefits, inactivity_periods'
    assert reason(checked) == f'error: report_timeouts_s: worst_benefits is none of {reports}'


@pytest.mark.parametrize(
    'failure',
    [
        'perform pg_terminate_backend(pg_backend_pid())',
        "raise serialization_failure using message = 'again'",
        "raise deadlock_detected using message = 'again'",
    ],
    ids=['connection lost', '40001', '40P01'],
)
def test_statement_that_fails_twice_is_not_run_again(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], failure: str
) -> None:
    function = 'create or replace function fail() returns boolean language plpgsql as'
    rows.connection.execute('create sequence runs')
    rows.connection.execute(f'{function} $$ begin return true; end $$')
    rows.benefit(1)
    replace_by_view(rows, '*', 'fail()')
    # a sequence is not for sessions that only read
    api = start_api(DATABASE_URL=database_url, API_SESSION_SETTINGS='false', API_WORKERS='1')
    rows.connection.execute(
        f"{function} $$ begin perform nextval('runs'); {failure}; return true; end $$"
    )
    answer = api.get(AVAILABLE)
    assert answer.status_code == 503
    assert answer.json()['type'] == '/docs/problems/database-unavailable'
    assert answer.json()['detail'] == PROBLEMS['database-unavailable'].meaning
    assert rows.connection.execute('select last_value from runs').fetchone() == (2,)
    wait_for(lambda: metric(api, 'database_retries_total') == 1)
    wait_for(lambda: 'level=warning event="database unavailable: ' in api.output())
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'{function} $$ begin return true; end $$')
    assert api.get(AVAILABLE).status_code == 200
