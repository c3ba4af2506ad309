"""The metrics: the sums of all workers, including those that have ended."""

import subprocess
from collections import Counter
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.faults.load import Load
from tests.support.machine import system_program
from tests.support.service import PATHS, ApiProcess, metric, workers
from tests.support.waiting import DEADLINE_S, wait_for

ROUTES = {
    PATHS[0]: '/venues/top-benefits',
    PATHS[1]: '/venues/{venueId}/available-benefits',
    PATHS[2]: '/venues/{venueId}/inactivity-periods',
}


def samples(url: str) -> dict[tuple, float]:
    """Scrape; returns the values by name and labels, without the common prefix."""
    answer = httpx.get(f'{url}/metrics', timeout=DEADLINE_S)
    assert answer.headers['content-type'].startswith('text/plain; version=')
    return {
        (sample.name.removeprefix('benefits_api_'), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(route: str, status: int, part: str = 'count') -> tuple:
    """Return the key of a figure of the histogram."""
    name = f'http_request_duration_seconds_{part}'
    return (name, ('route', route), ('status', str(status)))


def test_sums_fit_what_clients_counted(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    bad = '/venues/1/available-benefits'
    paths = [*PATHS, bad, '/nowhere']
    with Load(api.url, lambda number: paths[number % len(paths)], clients=8) as clients:
        clients.wait_for(600)
    counted = Counter((asked.path, asked.status) for asked in clients.asked)
    found = samples(api.url)
    for path, route in ROUTES.items():
        assert found[requests(route, 200)] == counted[path, 200] > 0
        assert found[requests(route, 200, 'sum')] > 0
    assert found[requests(ROUTES[PATHS[1]], 400)] == counted[bad, 400] > 0
    assert found[requests('-', 404)] == counted['/nowhere', 404] > 0
    assert found['http_problems_total', ('kind', 'invalid-parameter')] == counted[bad, 400]


def test_dead_worker_is_replaced_and_its_counts_stay(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    count = f'http_request_duration_seconds_count{{route="{ROUTES[PATHS[0]]}",status="200"}}'
    for number in (1, 2):
        assert httpx.get(api.url + PATHS[0], timeout=DEADLINE_S).status_code == 200
        [worker] = workers(api)
        worker.kill()
        wait_for(lambda: workers(api) not in ([], [worker]))  # noqa: B023
        assert metric(api, count) == number


def test_refused_http_counts_too(api: ApiProcess) -> None:
    keys = [requests('-', 431), ('http_problems_total', ('kind', 'headers-too-large'))]
    before = samples(api.url)
    assert api.get('/live', headers={'x': 'y' * 20_000}).status_code == 431
    after = samples(api.url)
    assert [after[key] - before.get(key, 0) for key in keys] == [1, 1]


def test_promtool_finds_nothing(api: ApiProcess) -> None:
    assert {api.get(path).status_code for path in PATHS} == {200}
    scraped = api.get('/metrics').content
    command = [system_program('promtool', 'prometheus'), 'check', 'metrics']
    checked = subprocess.run(command, input=scraped, capture_output=True, check=False)
    assert (checked.stdout, checked.stderr, checked.returncode) == (b'', b'', 0)
