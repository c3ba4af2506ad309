"""Slow reports and too many requests: who has to wait, for how long, and who does not."""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from db.embedded import EmbeddedServer, load
from tests.faults.load import Load, failures
from tests.support import ApiProcess, Rows, cloned, make_slow, metric, until, wait_until_busy

TOP = '/venues/top-benefits'
AVAILABLE = '/venues/1/available-benefits?personId=1'
INACTIVITY = '/venues/1/inactivity-periods'
MOMENT = datetime.now(UTC)


def ask_together(api: ApiProcess, paths: list[str]) -> list[httpx.Response]:
    """Ask for all paths at once, each on a connection of its own."""
    with ThreadPoolExecutor(len(paths)) as clients:
        return list(clients.map(lambda path: httpx.get(api.url + path, timeout=30), paths))


def kinds(answers: list[httpx.Response]) -> list[str]:
    return [answer.json()['type'].rsplit('/', 1)[1] for answer in answers]


def test_identical_requests_share_one_statement(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    make_slow(rows, 0.5)
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1', API_POOL_SIZE='8')
    answers = ask_together(api, [AVAILABLE] * 20)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {answers[0].content}
    statements = 20 - metric(api, 'shared_answers_total')
    # who comes when the first answer has just gone starts another one
    assert 1 <= statements <= 3


def test_different_requests_share_nothing(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.people(2, 3)
    make_slow(rows, 0.2)
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1')
    paths = [f'/venues/1/available-benefits?personId={person}' for person in (1, 2, 3)]
    paths += [f'{AVAILABLE}&timestamp=2024-07-01', INACTIVITY]
    assert {answer.status_code for answer in ask_together(api, paths)} == {200}
    assert metric(api, 'shared_answers_total') == 0


def test_failure_is_shared_too_and_told_apart_from_a_full_pool(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    make_slow(rows, 30)
    api = start_api(DATABASE_URL=database_url, API_WORKERS='1', API_STATEMENT_TIMEOUT_S='1')
    answers = ask_together(api, [AVAILABLE] * 5)
    assert {answer.status_code for answer in answers} == {504}
    assert set(kinds(answers)) == {'statement-timeout'}
    assert metric(api, 'database_timeouts_total') < 5
    assert metric(api, 'http_problems_total{kind="statement-timeout"}') == 5
    assert 'problem=statement-timeout' in api.output()


def test_full_pool_is_503_after_a_bounded_wait_and_then_at_once(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.people(2, 3, 4)
    make_slow(rows, 4)
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='1',
        API_POOL_MAX_WAITING='1',
        API_STATEMENT_TIMEOUT_S='20',
    )
    with ThreadPoolExecutor(2) as clients:
        running = clients.submit(httpx.get, api.url + AVAILABLE, timeout=30)
        wait_until_busy(rows)
        path = '/venues/1/available-benefits?personId={}'
        waiting = clients.submit(httpx.get, api.url + path.format(2), timeout=30)
        for _ in until():
            if metric(api, 'requests_waiting') == 1:
                break
        refused = httpx.get(api.url + path.format(3))
        # whoever needs no connection is answered
        assert httpx.get(f'{api.url}/live').status_code == 200
        assert httpx.get(f'{api.url}/venues/x/inactivity-periods').status_code == 400
        waited = waiting.result()
        assert not running.done()
        assert running.result().status_code == 200
    for answer in (refused, waited):
        assert answer.status_code == 503
        assert int(answer.headers['retry-after']) >= 1
        assert kinds([answer]) == ['overloaded']
    assert refused.elapsed < waited.elapsed
    assert waited.elapsed.total_seconds() < 4
    assert metric(api, 'http_problems_total{kind="overloaded"}') == 2
    assert 'problem=overloaded' in api.output()
    assert httpx.get(api.url + INACTIVITY, timeout=30).status_code == 200


def test_slow_reports_leave_connections_for_the_others(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    make_slow(rows, 1)
    api = start_api(
        DATABASE_URL=database_url, API_WORKERS='1', API_POOL_SIZE='2', API_POOL_TIMEOUT_S='20'
    )
    paths = [f'{TOP}?timestamp=2024-07-0{day}' for day in range(1, 4)]
    most = 0
    with ThreadPoolExecutor() as clients:
        answers = [clients.submit(httpx.get, api.url + path, timeout=30) for path in paths]
        while not all(answer.done() for answer in answers):
            [running] = rows.connection.execute(
                "select count(*) from pg_stat_activity where query like '/* top_benefits%'"
                " and datname = current_database() and state = 'active'"
                " and backend_type = 'client backend'"
            ).fetchone()
            most = max(most, running)
            time.sleep(0.02)
    assert {answer.result().status_code for answer in answers} == {200}
    assert most == 1


@pytest.mark.parametrize(
    ('path', 'statuses'),
    [
        pytest.param(lambda _: TOP, {200}, id='identical'),
        pytest.param(
            lambda number: (
                f'{TOP}?timestamp={MOMENT + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}'
            ),
            {200, 503},
            id='different',
        ),
    ],
)
def test_crowd_at_the_slow_report_does_not_starve_the_others(
    large_url: str,
    start_api: Callable[..., ApiProcess],
    path: Callable[[int], str],
    statuses: set[int],
) -> None:
    api = start_api(DATABASE_URL=large_url)
    alone = api.get(TOP).elapsed.total_seconds()
    assert alone > 0.1
    with Load(api.url, path, clients=50) as crowd:
        crowd.wait_for(1)
        for _ in range(3):  # others use the machine as well, so the best round counts
            with Load(api.url, available, clients=2) as few:
                few.wait_for(200)
            assert failures(few.asked) == []
            p95 = statistics.quantiles([asked.seconds for asked in few.asked], n=20)[-1]
            print(f'top-benefits alone {alone:.3f} s; available-benefits p95 {p95:.3f} s')
            if p95 < 0.1:
                break
    assert {asked.status for asked in crowd.asked} <= statuses
    assert p95 < 0.1


def available(number: int) -> str:
    return f'{AVAILABLE}&timestamp=2024-07-01T{number % 24:02}:00'


@pytest.fixture(scope='module')
def large_url(server: EmbeddedServer) -> Iterator[str]:
    """Return the URL of a database with 2,000,000 uses of 3,000 benefits in 180 days."""
    with (
        cloned(server, 'template0') as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        load(url, 'schema.sql')
        for statement in (
            "insert into venue select n, 'Venue ' || n from generate_series(1, 1000) as s (n)",
            "insert into person values (1, 'One')",
            "insert into benefit select n, 1 + n % 1000, 'Benefit ' || n, 'week'"
            ' from generate_series(1, 3000) as s (n)',
            'alter table benefit_usage disable trigger all',
            'insert into benefit_usage'
            " select n, 1, 1 + n % 3000, localtimestamp - n * interval '7 seconds'"
            ' from generate_series(1, 2000000) as s (n)',
        ):
            connection.execute(statement)
        load(url, 'indexes.sql')
        connection.execute('vacuum analyze')
        yield url
