"""The facts in docs/operating.md: metrics, limits and tokens."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.server.http_server import MAX_BODY_BYTES, MAX_HEADER_BYTES
from api.server.service import MAX_CONNECTIONS
from tests.pages import BASE, command, names, tables
from tests.support.commands import run
from tests.support.machine import system_program
from tests.support.service import ApiProcess

TOKEN = 'a-token-that-nobody-guesses'


def scraped(api: ApiProcess) -> dict[str, tuple[str, set[str]]]:
    """Return the type and labels of each metric, by name."""
    found = {}
    for family in text_string_to_metric_families(api.get('/metrics').text):
        name = family.name + ('_total' if family.type == 'counter' else '')
        labels = {label for sample in family.samples for label in sample.labels} - {'le'}
        found[name] = (family.type, labels)
    return found


def test_table_of_metrics_is_what_is_scraped(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url)
    assert api.get('/venues/top-benefits').status_code == 200
    assert api.get('/venues/x/inactivity-periods').status_code == 400
    told = {
        names(name)[0]: (type_, set(names(labels))) for name, type_, labels, _ in tables()['name']
    }
    assert scraped(api) == told


def test_table_of_limits_is_that_of_the_code() -> None:
    assert [default for _, default, *_ in tables()['limit']] == [
        f'{MAX_CONNECTIONS}',
        '`pool_max_waiting`, and as many for the slow report',
        f'{MAX_HEADER_BYTES // 1024} KiB',
        f'{MAX_BODY_BYTES // 1024} KiB',
    ]


@pytest.mark.parametrize(('token', 'printed'), [(TOKEN, '"venueId"'), ('', '/unauthorized"')])
def test_example_with_a_token(
    sample_url: str, start_api: Callable, token: str, printed: str
) -> None:
    system_program('curl', 'curl')
    api = start_api(DATABASE_URL=sample_url, API_TOKEN_SHA256=sha256(TOKEN.encode()).hexdigest())
    line = command('curl -H "Authorization:').replace(BASE, api.url)
    assert printed in run('sh', '-c', f'TOKEN={token}; {line}')
