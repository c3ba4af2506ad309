"""The plans of the function files on several hundred thousand uses: indexes and pages.

Pages are counted, not seconds, so the numbers are the same in every run.
"""

from collections.abc import Iterator

import psycopg
import pytest

from api.database.queries import FOLDER, load_query
from tests.support.postgres import cloned
from tools.embedded import EmbeddedServer

# In the window, venue 1 has 1,000 uses of each of its benefits and venue 2 has 100,000, with the
# same three silences of 35 days. The other venues make tables in which a venue is a small part
QUIET, BUSY = 1, 2
DATA = """
set session_replication_role = replica;

insert into venue select number, 'Venue' from generate_series(1, 200) as number;

insert into person select number, 'Person' from generate_series(1, 2000) as number;

insert into benefit (id, "venueId", title, recurrence)
select venue.id * 3 + kinds.place, venue.id, 'Benefit', kinds.recurrence
from venue
cross join (values (0, 'day'), (1, 'week'), (2, 'month')) as kinds (place, recurrence);

insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
select
    1 + number % 2000,
    benefit.id,
    timestamp '2024-01-03 12:00' + interval '60 days' * (number % 3)
    + interval '25 days' * number / counts.uses
from benefit
cross join lateral (
    select case benefit."venueId" when 1 then 1000 when 2 then 100000 else 30 end as uses
) as counts
cross join lateral generate_series(1, counts.uses) as number;

vacuum (analyze) venue, person, benefit, benefit_usage
"""
PERSON = 1
MOMENT = '2024-07-01 12:00+00'
# the files that look up uses in an index, and that index
LOOKUPS = {
    'available_benefits': 'benefit_usage_person_id_benefit_id_usage_timestamp_idx',
    'inactivity_periods': 'benefit_usage_benefit_id_usage_timestamp_idx',
}


@pytest.fixture(scope='module')
def connection(server: EmbeddedServer) -> Iterator[psycopg.Connection]:
    """Return a connection to a database with the uses, vacuumed and analyzed."""
    with cloned(server) as url, psycopg.connect(url, autocommit=True) as connection:
        for statement in DATA.split(';\n'):
            connection.execute(statement)
        yield connection


@pytest.fixture(params=['custom', 'generic'])
def plans(request: pytest.FixtureRequest, connection: psycopg.Connection) -> 'Plans':
    """Return custom plans and generic plans."""
    connection.execute(f'set plan_cache_mode = force_{request.param}_plan')
    return Plans(connection)


class Plans:
    """Runs function files as prepared statements, and returns their plans."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def of(self, name: str, *, venue: int = BUSY, timestamp: str | None = MOMENT) -> 'Plan':
        """Run a function and return its plan."""
        function = load_query(FOLDER / f'{name}.sql')
        types = ', '.join(each.type for each in function.parameters)
        known = {'venue_id': venue, 'person_id': PERSON, 'timestamp': timestamp}
        values = [known[each.name] for each in function.parameters]
        self._connection.execute(f'prepare {name} ({types}) as {function.sql.decode()}')
        marks = ', '.join(['%s'] * len(values))
        [[explained]] = (
            psycopg.ClientCursor(self._connection)
            .execute(f'explain (analyze, buffers, format json) execute {name} ({marks})', values)
            .fetchone()
        )
        self._connection.execute(f'deallocate {name}')
        return Plan(explained['Plan'])


class Plan:
    """The output of EXPLAIN for a statement that was run."""

    def __init__(self, top: dict) -> None:
        self._top = top

    @property
    def pages(self) -> int:
        """The number of pages that the statement read, from the cache or from disk."""
        return self._top['Shared Hit Blocks'] + self._top['Shared Read Blocks']

    def nodes(self, relation: str) -> list[dict]:
        """Return the nodes that read a table, directly or by an index."""
        return [node for node in self.all() if node.get('Relation Name') == relation]

    def all(self) -> list[dict]:
        """Return all nodes."""
        return list(self._walk(self._top))

    def _walk(self, node: dict) -> Iterator[dict]:
        yield node
        for child in node.get('Plans', []):
            yield from self._walk(child)


@pytest.mark.parametrize('timestamp', [MOMENT, None], ids=['moment', 'now'])
@pytest.mark.parametrize('name', LOOKUPS)
def test_uses_are_read_from_the_index_alone(plans: Plans, name: str, timestamp: str | None) -> None:
    nodes = plans.of(name, timestamp=timestamp).nodes('benefit_usage')
    assert nodes
    for node in nodes:
        assert node['Node Type'] == 'Index Only Scan'
        assert node['Index Name'] == LOOKUPS[name]
        assert node['Heap Fetches'] == 0
        # the condition is the range of the index scan: no row is read and then discarded
        assert 'Filter' not in node


@pytest.mark.parametrize('name', LOOKUPS)
def test_only_the_benefits_of_the_venue_are_read(plans: Plans, name: str) -> None:
    for node in plans.of(name).nodes('benefit'):
        assert node['Node Type'] in ('Bitmap Heap Scan', 'Index Scan')
        assert node['Actual Rows'] == 3


def test_available_benefits_probes_the_index_once_per_benefit(plans: Plans) -> None:
    nodes = plans.of('available_benefits').nodes('benefit_usage')
    assert sum(node['Actual Loops'] for node in nodes) == 3


def test_top_benefits_scans_the_uses_once(plans: Plans) -> None:
    [node] = plans.of('top_benefits').nodes('benefit_usage')
    # one scan, by the session and at most two parallel workers
    assert node['Actual Loops'] <= 3


def test_inactivity_periods_reads_no_more_pages_for_a_hundred_times_the_uses(plans: Plans) -> None:
    quiet = plans.of('inactivity_periods', venue=QUIET)
    busy = plans.of('inactivity_periods', venue=BUSY)
    probes = [sum(n['Actual Loops'] for n in p.nodes('benefit_usage')) for p in (quiet, busy)]
    assert probes[1] == pytest.approx(probes[0], rel=0.2)
    # 13, 9 and 6 probe times in the 180 days
    assert max(probes) <= 2 * (13 + 9 + 6)
    assert busy.pages <= 1.2 * quiet.pages


def test_inactivity_periods_of_a_hundred_benefits_are_too_cheap_for_jit(
    connection: psycopg.Connection, plans: Plans
) -> None:
    [limit] = connection.execute("select current_setting('jit_above_cost')::float").fetchone()
    # the venue has three benefits
    assert plans.of('inactivity_periods').all()[0]['Total Cost'] / 3 * 100 < limit
