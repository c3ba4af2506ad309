"""`make bench` measures what it describes, and docs/speed.md has its figures."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from api.database.queries import FOLDER, load_query
from tests.bench.http import write_distant
from tests.bench.results import AVAILABLE, REPORTS, Results, ratio
from tests.bench.tables import filled, markdown, tables
from tests.functions.test_plans import Plan
from tests.support.commands import clean_environment
from tests.support.project import ROOT

PAGE = ROOT / 'docs' / 'speed.md'


@pytest.mark.parametrize('page', [PAGE, PAGE.with_name('operating.md')], ids=lambda path: path.name)
def test_tables_of_the_page_are_made_of_its_figures(page: Path) -> None:
    made = tables(Results(PAGE.with_suffix('')))
    text = page.read_text()
    assert any(markdown(table) in text for table in made)
    assert filled(text, made) == text


def test_ratio_is_the_median_of_the_rounds() -> None:
    # the ratio of the medians would be 2
    assert ratio([2, 4, 30], [2, 1, 10]) == 3


def test_distant_database_waits_once_for_the_same_answer(sample_url: str, tmp_path: Path) -> None:
    write_distant(tmp_path, 1)
    near, distant = (load_query(f / f'{AVAILABLE}.sql') for f in (FOLDER, tmp_path))
    assert distant.parameters == near.parameters
    values = [1, 1, None]
    with psycopg.connect(sample_url, cursor_factory=psycopg.RawCursor) as connection:
        answers = [connection.execute(f.sql, values).fetchone() for f in (near, distant)]
        explained = connection.execute(b'explain (analyze, format json) ' + distant.sql, values)
        [[[explanation]]] = explained
    assert answers[0] == answers[1]
    [wait] = [n for n in Plan(explanation['Plan']).all() if n.get('Alias') == 'distance']
    assert wait['Actual Loops'] == 1


@pytest.mark.slow
def test_small_run_measures_every_report_in_sql(tmp_path: Path) -> None:
    subprocess.run(
        [
            *[sys.executable, '-m', 'tests.bench', '--usages', '10000', '--rounds', '1'],
            *['--parts', 'sql', 'unindexed', '--out', str(tmp_path)],
        ],
        cwd=ROOT,
        env=clean_environment(),
        check=True,
    )
    results = Results(tmp_path)
    [part] = results.sql_parts()
    for report in REPORTS:
        assert [r['uses'] for r in results.records(part, report=report)] == [10, 100, 1000, 10000]
        assert [r['uses'] for r in results.records('unindexed', report=report)] == [100, 1000]
