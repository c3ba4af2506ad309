"""What `make bench` finds is kept, told as it is, and stands in docs/speed.md."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.bench.data import Databases, Size
from tests.bench.results import Results, ratio
from tests.bench.servers import CORES, Server
from tests.bench.tables import filled, markdown, tables
from tests.support import (
    DEADLINE_S,
    ROOT,
    ApiProcess,
    GuardedServer,
    clean_environment,
    client_of_each_worker,
    ports,
    workers,
)

FOLDER = ROOT / 'docs' / 'speed'


def test_tables_of_the_page_are_made_of_its_figures() -> None:
    page = FOLDER.with_suffix('.md').read_text()
    *made, targets = tables(Results(FOLDER))
    assert targets[0][0] == 'target'
    assert filled(page, made) == page
    for table in made:
        assert markdown(table) in page


def test_ratio_is_the_median_of_the_rounds() -> None:
    # that of the medians would be 2
    assert ratio([2, 4, 30], [2, 1, 10]) == 3


@pytest.mark.slow
def test_part_that_fails_fails_alone(tmp_path: Path) -> None:
    folder = tmp_path / 'figures'
    finished = subprocess.run(
        [
            *[sys.executable, '-m', 'tests.bench', '--usages', '10000', '--rounds', '1'],
            *['--parts', 'growth,versions', '--postgres', str(tmp_path), '--out', str(folder)],
        ],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert f'error: {tmp_path}: POSTGRES_BIN: there is no initdb in' in finished.stderr
    assert 'growth on PostgreSQL' in finished.stdout
    assert [
        record['uses'] for record in Results(folder).records('growth', report='top_benefits')
    ] == [
        10,
        100,
        1000,
        10000,
    ]
    assert 'plain form / ours' in finished.stdout


def test_spread_is_what_each_worker_has(start_api: Callable[..., ApiProcess]) -> None:
    with GuardedServer() as database:
        where = Databases(database, Size(usages=0, venues=0, benefits=0, persons=0))
        api = start_api(DATABASE_URL=where.served(where.make('empty')), API_WORKERS='2')
        server = Server('ours', api.url, api.process.pid, api.log)
        with client_of_each_worker(api), httpx.Client(base_url=api.url) as third:
            third.get('/live', timeout=DEADLINE_S)
            # a worker's connections to the database are not its clients'
            clients = [ports(worker) - {database.settings['port']} for worker in workers(api)]
            counts = sorted(map(len, clients), reverse=True)
            assert counts[1] > 0
            assert server.spread() == counts + [0] * (CORES - 2)
        api.stop()
