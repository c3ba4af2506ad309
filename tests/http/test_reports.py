"""The three reports over HTTP."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.rows import Rows
from tests.support.service import AVAILABLE, INACTIVE, PATHS, TOP, ApiProcess, as_of
from tools.embedded import EmbeddedServer

# the sample data is relative to now
DAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
MOMENT = f'{DAY}T12:00:00Z'


def test_sample_data_tells_its_story(api: ApiProcess) -> None:
    top = {venue['venueId']: venue['topBenefits180Days'] for venue in api.get(TOP).json()}
    assert len(top) == 30
    assert [benefit['benefitId'] for benefit in top[1]] == [1, 4, 2]
    assert top[29] == top[30] == []
    assert [benefit['id'] for benefit in api.get(AVAILABLE).json()] == [3, 4, 5, 6]
    inactive = {b['benefitId']: b['inactivityPeriods'] for b in api.get(INACTIVE).json()}
    assert 1 not in inactive
    assert len(inactive[2]) == len(inactive[6]) == 1


@pytest.mark.parametrize(
    'time',
    [
        *('t12:00:00z', 'T12:00:00', '%2012:00', '+12:00:00', 'T14:00:00%2B02:00', 'T14:00%2B02'),
        *('T12:00:00.0000009Z', 'T12:00:00.000000999Z', 'T12:00:00,0-00:00', 'T07:00:00-0500'),
    ],
)
def test_timestamps_of_one_instant_give_one_answer(api: ApiProcess, time: str) -> None:
    answer = api.get(as_of(INACTIVE, DAY + time))
    assert (answer.status_code, answer.headers['content-type']) == (200, 'application/json')
    assert answer.content == api.get(as_of(INACTIVE, MOMENT)).content


def test_date_is_its_first_moment_in_utc(api: ApiProcess) -> None:
    first, date = (api.get(as_of(INACTIVE, t)) for t in (f'{DAY}T00:00:00Z', DAY))
    assert first.content == date.content


@pytest.mark.parametrize('timestamp', ['0002-01-01', '9999-12-31T23:59:59.999999'])
@pytest.mark.parametrize('path', PATHS)
def test_ends_of_the_calendar_have_reports(api: ApiProcess, path: str, timestamp: str) -> None:
    assert api.get(as_of(path, timestamp)).status_code == 200


def test_microseconds_and_any_script_arrive_as_they_are(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    title = 'Kahvi ☕ "ilmainen" \\ 50 % :nyt — <b>😀</b>\n\t'
    rows.connection.execute('insert into benefit values (1, 1, %s, %s)', [title, 'day'])
    rows.uses(1, '2024-07-01 12:00:00.000001')
    api = start_api(DATABASE_URL=database_url)
    before = api.get(as_of(AVAILABLE, '2024-07-01T12:00:00Z')).json()
    assert before == [{'id': 1, 'venueId': 1, 'title': title, 'recurrence': 'day'}]
    assert api.get(as_of(AVAILABLE, '2024-07-01T12:00:00.000001Z')).json() == []


@pytest.mark.parametrize(
    ('path', 'parameter'),
    [
        ('/venues/31/inactivity-periods', 'venueId'),
        ('/venues/0/inactivity-periods', 'venueId'),
        ('/venues/9223372036854775807/available-benefits?personId=1', 'venueId'),
        ('/venues/1/available-benefits?personId=401', 'personId'),
    ],
)
def test_404_names_what_does_not_exist(api: ApiProcess, path: str, parameter: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 404
    assert answer.headers['content-type'] == 'application/problem+json'
    problem = answer.json()
    assert problem['parameter'] == parameter
    assert parameter in problem['detail']
    assert problem['status'] == 404


def test_spellings_of_an_id_mean_the_same(api: ApiProcess) -> None:
    expected = api.get(as_of(INACTIVE, MOMENT)).json()
    for spelling in ('001', '%31'):
        path = INACTIVE.replace('1', spelling)
        assert api.get(as_of(path, MOMENT)).json() == expected


def test_head_is_get_without_the_body(api: ApiProcess) -> None:
    path = as_of(INACTIVE, MOMENT)
    head = api.client.head(path)
    assert head.status_code == 200
    assert head.content == b''
    assert head.headers['content-length'] == str(len(api.get(path).content))


@pytest.mark.parametrize('path', [*PATHS, '/live'])
def test_other_methods_are_405_and_say_what_is_allowed(api: ApiProcess, path: str) -> None:
    for method in ('POST', 'PUT', 'PATCH', 'DELETE'):
        answer = api.client.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers['allow'].split(', ')) == {'GET', 'HEAD', 'OPTIONS'}
        assert answer.headers['cache-control'] == 'no-store'
        assert answer.json()['status'] == 405


@pytest.mark.parametrize('path', ['/venues', '/venues/', f'{TOP}/', '/Venues/top-benefits'])
def test_unknown_path_is_a_404_that_points_on(api: ApiProcess, path: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 404
    assert answer.headers['content-type'] == 'application/problem+json'
    assert 'documentation' in answer.json()['detail']


def test_request_is_one_round_trip_of_one_statement_prepared_once(
    server: EmbeddedServer,
    rows: Rows,
    database_url: str,
    start_api: Callable[..., ApiProcess],
) -> None:
    name = database_url.split('/')[3].split('?', maxsplit=1)[0]
    rows.connection.execute(f'alter database {name} set log_statement = "all"')
    rows.connection.execute(f'alter database {name} set application_name = "{name}"')
    api = start_api(
        DATABASE_URL=f'{database_url}&application_name={name}', API_POOL_SIZE='1', API_WORKERS='1'
    )
    api.get(TOP)  # prepares
    log_before = len(server.read_bootlog())
    for day in range(1, 7):
        assert api.get(as_of(TOP, f'2024-07-0{day}')).status_code == 200
    written = server.read_bootlog()[log_before:]
    statements = re.findall(r'LOG:  (statement|execute [^:]*): (.*)', written)
    assert len(statements) == 6
    assert {kind.startswith('execute _pg3_') for kind, _ in statements} == {True}
    assert {text for _, text in statements} == {'-- name: top_benefits(timestamp)^'}
