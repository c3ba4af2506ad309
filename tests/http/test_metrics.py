"""What Prometheus scrapes, from two workers under load."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import psutil
import pytest
from api.database.sessions import Sessions
from prometheus_client.parser import text_string_to_metric_families

from api import OPENAPI
from api.config import Settings
from api.telemetry.metrics import Metrics
from tests.faults.load import PATHS, Load
from tests.support import ApiProcess, client_of_each_worker, metric, system_program, wait_for

ROUTES = {
    PATHS[0]: '/venues/top-benefits',
    PATHS[1]: '/venues/{venueId}/available-benefits',
    PATHS[2]: '/venues/{venueId}/inactivity-periods',
}


def samples(api: ApiProcess) -> dict[tuple, float]:
    """Scrape; returns the values by name and labels, without the common prefix."""
    answer = api.get('/metrics')
    assert answer.headers['content-type'].startswith('text/plain; version=')
    return {
        (sample.name.removeprefix('benefits_api_'), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(route: str, status: int) -> tuple:
    return ('http_requests_total', ('route', route), ('status', str(status)))


def answers(found: dict[tuple, float]) -> float:
    """Return how many answers were counted, except for scrapes."""
    return sum(
        value
        for name, value in found.items()
        if name[0] == 'http_requests_total' and ('route', '/metrics') not in name
    )


def test_sums_fit_what_clients_counted(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    bad = '/venues/1/available-benefits'
    paths = [*PATHS, bad, '/nowhere']
    with Load(api.url, lambda number: paths[number % len(paths)], clients=8) as clients:
        clients.wait_for(300)
        assert len([name for name in samples(api) if name[0] == 'http_requests_total']) >= 5
        clients.wait_for(300)
    counted = Counter((asked.path, asked.status) for asked in clients.asked)
    # what another worker counted is known here a second later
    wait_for(lambda: answers(samples(api)) == len(clients.asked))
    found = samples(api)
    for path, route in ROUTES.items():
        assert found[requests(route, 200)] == counted[path, 200] > 0
    assert found[requests(ROUTES[PATHS[1]], 400)] == counted[bad, 400] > 0
    assert found[requests('-', 404)] == counted['/nowhere', 404] > 0
    assert found['http_problems_total', ('kind', 'invalid-parameter')] == counted[bad, 400]
    for route in ROUTES.values():
        durations = found['http_request_duration_seconds_count', ('route', route)]
        statuses = [value for name, value in found.items() if name[:2] == requests(route, 0)[:2]]
        assert durations == sum(statuses)
        everything = ('http_request_duration_seconds_bucket', ('le', '+Inf'), ('route', route))
        assert found[everything] == durations
        spent = found['http_request_duration_seconds_sum', ('route', route)]
        assert 0 < found['database_seconds_total', ('route', route)] < spent


def test_pools_of_all_workers_are_added_up(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2', API_POOL_MIN_SIZE='3')
    idle, open_ = (f'database_connections{{state="{state}"}}' for state in ('idle', 'open'))
    wait_for(lambda: metric(api, idle) == metric(api, open_) == 6)
    # what a worker counted is not lost with it, and its connections are no longer there
    answered = f'http_requests_total{{route="{PATHS[0]}",status="200"}}'
    assert api.get(PATHS[0]).status_code == 200
    with client_of_each_worker(api, 2) as clients:
        wait_for(lambda: all(metric(client, answered) == 1 for client in clients.values()))
    workers = [psutil.Process(pid) for pid in clients]
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    psutil.wait_procs(workers)
    wait_for(lambda: metric(api, 'workers_restarted_total') == 2)
    assert metric(api, answered) == 1
    wait_for(lambda: metric(api, idle) == metric(api, open_) == 6)


def test_processes_are_added_up(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='2')
    parent = psutil.Process(api.process.pid)
    wait_for(lambda: len(parent.children()) == 2)
    processes = [parent, *parent.children()]
    [worker, _] = parent.children()
    worker.rlimit(psutil.RLIMIT_NOFILE, (1000, 1000))
    wait_for(lambda: metric(api, 'process_max_fds') == 1000)
    found = samples(api)
    assert found['process_start_time_seconds',] == pytest.approx(parent.create_time(), abs=1)
    files = sum(process.num_fds() for process in processes)
    assert found['process_open_fds',] == pytest.approx(files, abs=len(processes) * 10)
    memory = sum(process.memory_info().rss for process in processes)
    assert found['process_resident_memory_bytes',] == pytest.approx(memory, rel=0.5)
    most_s = sum(sum(process.cpu_times()[:2]) for process in processes)
    assert 0 < found['process_cpu_seconds_total',] <= most_s


def test_promtool_finds_nothing(api: ApiProcess) -> None:
    assert {api.get(path).status_code for path in PATHS} == {200}
    assert api.get('/nowhere').status_code == 404
    scraped = api.get('/metrics').content
    assert b'process_cpu_seconds_total' in scraped
    command = [system_program('promtool', 'prometheus'), 'check', 'metrics']
    checked = subprocess.run(command, input=scraped, capture_output=True, check=False)
    assert (checked.stdout, checked.stderr, checked.returncode) == (b'', b'', 0)


def test_build_is_named(api: ApiProcess) -> None:
    version = json.loads(OPENAPI.read_bytes())['info']['version']
    [labels] = [dict(name[1:]) for name in samples(api) if name[0] == 'build_info']
    assert labels['version'] == version


def test_refused_http_counts_too(sample_url: str, start_api: Callable) -> None:
    api = start_api(DATABASE_URL=sample_url)
    assert api.get('/live', headers={'x': 'y' * 20_000}).status_code == 431
    wait_for(lambda: metric(api, 'http_requests_total{route="-",status="431"}') == 1)
    wait_for(lambda: metric(api, 'http_problems_total{kind="headers-too-large"}') == 1)


def test_plain_wsgi_has_metrics_of_its_own(sample_url: str) -> None:
    import falcon.testing  # noqa: PLC0415

    from api.app import create_app  # noqa: PLC0415

    settings, metrics = Settings(database_url=sample_url), Metrics()
    with closing(Sessions(settings, metrics)) as sessions:
        app = create_app(settings, sessions=sessions, metrics=metrics)
        client = falcon.testing.TestClient(app)
        assert client.simulate_get('/live').status_code == 200
        scraped = client.simulate_get('/metrics').text
    assert 'benefits_api_http_requests_total{route="/live",status="200"} 1.0' in scraped
