"""Bad input is a 400 that says what is allowed, and never reaches the database."""

import pytest

from tests.support.service import ApiProcess

AVAILABLE = '/venues/1/available-benefits'
INACTIVE = '/venues/1/inactivity-periods'


@pytest.fixture(scope='module')
def api(tmp_path_factory: pytest.TempPathFactory) -> ApiProcess:
    """Return an API process without a database: a request that uses it is a 503, not a 400."""
    environment = {'DATABASE_URL': 'host=/nowhere', 'API_POOL_TIMEOUT_S': '0.1'}
    process = ApiProcess(tmp_path_factory.mktemp('api'), environment)
    yield process
    process.stop()


def problem(answer, parameter: str) -> str:
    assert answer.status_code == 400, answer.text
    assert answer.headers['content-type'] == 'application/problem+json'
    assert answer.json()['title'] == 'Invalid parameter'
    assert answer.json()['status'] == 400
    assert answer.json()['parameter'] == parameter
    return answer.json()['detail']


MALFORMED_IDS = [
    *('x', '1_000', '%207', '7%20', '+7', '-7', '7.0', '1e3', '0x7', '1,2', '%FF', '7%00', '7%0A'),
    '%D9%A7',  # an Arabic seven
    *('9223372036854775808', '10000000000000000000', '00000000000000000001'),
]


@pytest.mark.parametrize('text', ['', *MALFORMED_IDS])
def test_malformed_person_id(api: ApiProcess, text: str) -> None:
    detail = problem(api.get(f'{AVAILABLE}?personId={text}'), 'personId')
    assert 'integer from 0 to 9223372036854775807' in detail


@pytest.mark.parametrize('text', MALFORMED_IDS)
def test_malformed_venue_id(api: ApiProcess, text: str) -> None:
    detail = problem(api.get(f'/venues/{text}/inactivity-periods'), 'venueId')
    assert 'integer from 0 to 9223372036854775807' in detail


@pytest.mark.parametrize(
    'text',
    [
        *('', 'now', 'infinity', '2024', '2024-07', '20240701', '2024-W27-1', '2024-7-1'),
        *('2024-07-01T', '2024-07-01T12', '2024-07-01T12:00:00.', '2024-07-01x12:00:00'),
        *('2024-07-01T12:00:00.1234567890', '2024-07-01T12:00:00ZZ', '2024-07-01Z'),
        *('2024-07-01T12:00:00%2B2', '2024-07-01T12:00:00%2B25:00', '2024-07-01T12:00:00%00'),
        *('2024-02-30', '2024-13-01', '2024-07-01T24:00:00', '2024-07-01T12:60:00'),
        *('0000-01-01', '0001-12-31T23:59:59.999999', '0002-01-01T00:00:00%2B00:01'),
        *('9999-12-31T23:59:59-00:01', '10000-01-01', '-0001-01-01', '2024-07-01T12:00:60Z'),
        *('%D9%A2024-07-01', '%FF', '1719835200', "2024-07-01'; drop table venue; --"),
    ],
)
def test_malformed_timestamp(api: ApiProcess, text: str) -> None:
    detail = problem(api.get(f'{INACTIVE}?timestamp={text}'), 'timestamp')
    assert 'years 2 to 9999' in detail
    assert 'such as 2022-10-07T12:00:00Z or ' in detail


def test_plus_that_became_a_space_is_explained(api: ApiProcess) -> None:
    answer = api.get(f'{INACTIVE}?timestamp=2022-10-07T12:00:00+02:00')
    assert 'write %2B for the +' in problem(answer, 'timestamp')
    spaced = api.get(f'{INACTIVE}?timestamp=2022-10-07%2012:00:00+02:00')
    assert 'write %2B for the +' in problem(spaced, 'timestamp')
    other = api.get(f'{INACTIVE}?timestamp=2022-10-07T12:00:00x02:00')
    assert 'write %2B for the +' not in problem(other, 'timestamp')


def test_missing_parameter(api: ApiProcess) -> None:
    assert problem(api.get(AVAILABLE), 'personId') == 'personId is required'


@pytest.mark.parametrize(
    ('query', 'parameter'),
    [
        ('personId=1&personId=1', 'personId'),
        ('personId=1&timestamp=2024-07-01&timestamp=2024-07-01', 'timestamp'),
    ],
)
def test_repeated_parameter(api: ApiProcess, query: str, parameter: str) -> None:
    assert problem(api.get(f'{AVAILABLE}?{query}'), parameter) == f'{parameter} must be given once'


@pytest.mark.parametrize(
    ('path', 'parameter', 'allowed'),
    [
        ('/venues/top-benefits?limit=3', 'limit', 'allowed here: timestamp'),
        (f'{AVAILABLE}?personId=1&person_id=1', 'person_id', 'personId, timestamp'),
        (f'{AVAILABLE}?personid=1', 'personid', 'personId, timestamp'),
        (f'{INACTIVE}?venueId=1', 'venueId', 'allowed here: timestamp'),
        (f'{INACTIVE}?personId=1', 'personId', 'allowed here: timestamp'),
        (f'{INACTIVE}?=1', '', 'allowed here: timestamp'),
        (f'{INACTIVE}?%00=1', '\0', 'allowed here: timestamp'),
        (f'{INACTIVE}?{"x" * 5000}=1', 'x' * 40, 'allowed here: timestamp'),
    ],
)
def test_unknown_parameter(api: ApiProcess, path: str, parameter: str, allowed: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 400
    assert answer.json().get('parameter', '') == parameter
    detail = answer.json()['detail']
    assert detail.startswith(f'there is no parameter {parameter}; ')
    assert allowed in detail


def test_valid_input_does_use_the_database(api: ApiProcess) -> None:
    assert api.get(f'{AVAILABLE}?personId=1').status_code == 503
