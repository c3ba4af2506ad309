"""The service with uses on several servers: the plans, and what happens if one server is down."""

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.functions.shards import Shards
from tests.functions.test_plans import Plans
from tests.pages import OF_CITUS, PAGES
from tests.support.commands import run, run_check
from tests.support.postgres import program, run_file
from tests.support.project import ROOT
from tests.support.rows import Rows, open_rows
from tests.support.service import ApiProcess
from tests.support.waiting import wait_for

T = 'timestamp=2024-07-01T12:00:00Z'
TOP = f'/venues/top-benefits?{T}'
PATHS = [
    TOP,
    f'/venues/1/available-benefits?personId=1&{T}',
    f'/venues/1/inactivity-periods?{T}',
]
ROLE = 'membership_benefits_api'
pytestmark = pytest.mark.slow
on_citus = pytest.mark.parametrize('benefits', ['citus_cluster'], indirect=True)
on_foreign_servers = pytest.mark.parametrize('benefits', ['foreign_servers'], indirect=True)


@pytest.fixture
def benefits(request: pytest.FixtureRequest) -> Iterator[Rows]:
    """Insert benefits with uses on every server."""
    with open_rows(request.getfixturevalue(request.param).url) as rows:
        for id_ in range(1, 21):
            rows.benefit(id_)
            rows.uses(id_, '2024-06-01', '2024-06-02')
        yield rows
        for table in ('benefit_usage', 'benefit', 'person', 'venue'):
            rows.connection.execute(f'delete from {table}')


def of_role(shards: Shards) -> str:
    """Return the URL for the role of the service."""
    return shards.url.replace('postgres@', f'{ROLE}@')


@on_foreign_servers
@pytest.mark.parametrize('timestamp', ['2024-07-01', None], ids=['moment', 'now'])
@pytest.mark.parametrize('mode', ['custom', 'generic'])
def test_each_foreign_server_counts_its_own_uses(
    benefits: Rows, foreign_servers: Shards, mode: str, timestamp: str | None
) -> None:
    benefits.connection.execute(
        'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
        " select 1, 1 + n % 20, timestamp '2024-06-01' + n * interval '1 minute'"
        ' from generate_series(1, 20000) as n'
    )
    benefits.connection.execute('analyze benefit_usage')
    counts = []
    for server in foreign_servers.servers[1:]:
        with psycopg.connect(server.url()) as connection:
            counts += connection.execute('select count(*) from benefit_usage').fetchone()
    assert sum(counts) == 20_040
    assert min(counts) > 0
    with psycopg.connect(of_role(foreign_servers), autocommit=True) as connection:
        connection.execute(f'set plan_cache_mode = force_{mode}_plan')
        plan = Plans(connection).of('top_benefits', timestamp=timestamp)
    scans = [node for node in plan.all() if node['Node Type'] == 'Foreign Scan']
    assert [scan['Relations'].partition(' (')[0] for scan in scans] == ['Aggregate on'] * 2


@on_foreign_servers
def test_foreign_server_that_is_away_is_a_503_until_it_is_back(
    benefits: Rows, foreign_servers: Shards, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=of_role(foreign_servers))
    before = [api.get(path).json() for path in PATHS]
    assert all(before)
    foreign_servers.servers[1].terminate()
    try:
        for path in PATHS:
            answer = api.get(path)
            assert (answer.status_code, answer.json()['title']) == (503, 'Database unavailable')
    finally:
        foreign_servers.servers[1].start()
    wait_for(lambda: all(api.get(path).status_code == 200 for path in PATHS))
    assert [api.get(path).json() for path in PATHS] == before


@on_citus
def test_service_runs_on_citus(
    benefits: Rows, citus_cluster: Shards, start_api: Callable[..., ApiProcess]
) -> None:
    api = start_api(DATABASE_URL=of_role(citus_cluster))
    for _ in range(8):  # from the sixth execution on, a session may use a generic plan
        for path in PATHS:
            assert api.get(path).json()


@on_citus
def test_index_that_citus_made_invalid_is_repaired_as_the_warning_says(
    benefits: Rows, citus_cluster: Shards
) -> None:
    first = citus_cluster.servers[0]
    run_file(first, ROOT / 'db' / 'indexes.sql')
    warning = run_check(citus_cluster.url).stderr
    assert 'repair with: ' in warning
    [sequential] = re.findall(r'`(set citus\.[^`]+)`', PAGES[OF_CITUS])
    for broken in warning.rstrip('\n').split('; '):
        repair = broken.partition('repair with: ')[2]
        run(program(first, 'psql'), first.url(), '-X', '-c', sequential, '-c', repair)
    assert run_check(citus_cluster.url).stderr == ''
