"""The reports on uses partitioned by month: same results, and partitions that are not read."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import psycopg
import pytest

from tests.functions.shards import READONLY_ROLE
from tests.functions.test_plans import LOOKUPS, Plan, Plans
from tests.pages import SCALING, blocks
from tests.support.commands import run_check
from tests.support.postgres import cloned, run_file
from tests.support.rows import run_function
from tools.embedded import EmbeddedServer

# Fourteen months. Benefits of one venue are used every day, twice a week, or hardly ever
DATA = """
set session_replication_role = replica;

insert into venue select number, 'Venue' from generate_series(1, 100) as number;

insert into person select number, 'Person' from generate_series(1, 500) as number;

insert into benefit (id, "venueId", title, recurrence)
select venue.id * 3 + kinds.place, venue.id, 'Benefit', kinds.recurrence
from venue
cross join (values (0, 'day'), (1, 'week'), (2, 'month')) as kinds (place, recurrence);

insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
select
    1 + (number * 7 + benefit.id) % 500,
    benefit.id,
    timestamp '2023-05-20' + benefit.id * interval '1 hour' + number * paces.pace
from benefit
cross join lateral (
    select case
        when benefit.id = 3 then interval '6 hours'
        when benefit.id = 4 then interval '80 hours'
        when benefit.id = 5 then interval '40 days'
        else interval '30 hours'
    end as pace
) as paces
cross join lateral
    generate_series(
        1, (extract(epoch from interval '420 days') / extract(epoch from paces.pace))::integer
    ) as number;

-- this person's last uses of venue 1: none of 3, of 4 long ago, of 5 lately
delete from benefit_usage where "personId" = 1 and "benefitId" in (3, 4, 5);

insert into benefit_usage ("personId", "benefitId", "usageTimestamp")
values (1, 4, '2023-06-02'), (1, 5, '2024-06-20');

vacuum (analyze) venue, person, benefit, benefit_usage
"""
VENUE = 1
MOMENT = '2024-07-01 12:00+00'
# the start of a month and one microsecond before, the first and last uses, and times far from any
MOMENTS = [
    MOMENT,
    '2024-07-01 00:00+00',
    '2024-06-30 23:59:59.999999+00',
    '2023-05-20 00:00+00',
    '2023-12-15 08:00+00',
    '2024-07-13 23:00+00',
    '2025-01-05 00:00+00',
    '2021-01-01 00:00+00',
    '2099-01-01 00:00+00',
]
WINDOW = [f'benefit_usage_2024_{month:02}' for month in range(1, 8)]
ROLE = 'membership_benefits_api'


class Database(NamedTuple):
    """A database with partitioned uses, and the results before they were partitioned."""

    url: str
    connection: psycopg.Connection
    before: list[str]


def answers(connection: psycopg.Connection) -> list[str]:
    found = []
    for moment in MOMENTS:
        asked = [('top_benefits', {})]
        for venue in (1, 2, 57):
            asked.append(('inactivity_periods', {'venue_id': venue}))
            for person in (1, 2, 333):
                known = {'venue_id': venue, 'person_id': person}
                asked.append(('available_benefits', known))
        for name, values in asked:
            answer = run_function(connection, name, timestamp=moment, **values)
            found.append(f'{name} {values} {moment}: {json.dumps(answer)}')
    return found


@pytest.fixture(scope='module')
def database(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Return a database that was partitioned with the statements of db/scaling.md."""
    statements, *_ = blocks('sql', SCALING)
    script = tmp_path_factory.mktemp('partitioned') / 'script.sql'
    script.write_text(statements)
    with cloned(server) as url, psycopg.connect(url, autocommit=True) as connection:
        for statement in DATA.split(';\n'):
            connection.execute(statement)
        before = answers(connection)
        for file in (READONLY_ROLE, script):
            run_file(server, file, url)
        yield Database(url, connection, before)
        connection.execute(f'drop owned by {ROLE}')
        connection.execute(f'drop role {ROLE}')


@pytest.fixture(params=['custom', 'generic'])
def plans(request: pytest.FixtureRequest, database: Database) -> Plans:
    """Return custom plans and generic plans."""
    database.connection.execute(f'set plan_cache_mode = force_{request.param}_plan')
    return Plans(database.connection)


def read(plan: Plan) -> list[dict]:
    """Return the nodes that read a partition; those that were never executed are left out."""
    return [
        node
        for node in plan.all()
        if node.get('Relation Name', '').startswith('benefit_usage_') and node['Actual Loops']
    ]


def test_partitions_answer_as_the_whole_table_did(database: Database) -> None:
    [[count, rows]] = database.connection.execute(
        'select count(distinct tableoid), count(*) from benefit_usage'
    ).fetchall()
    assert count >= 14
    assert rows > 90_000
    assert answers(database.connection) == database.before
    assert len(set(database.before)) > len(MOMENTS) * 4


@pytest.mark.parametrize('name', LOOKUPS)
def test_uses_are_read_from_the_indexes_of_partitions_alone(plans: Plans, name: str) -> None:
    nodes = read(plans.of(name, venue=VENUE, timestamp=MOMENT))
    assert nodes
    for node in nodes:
        assert node['Node Type'] == 'Index Only Scan'
        assert node['Heap Fetches'] == 0
        assert 'Filter' not in node


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('top_benefits', WINDOW),
        # venue 1 has a benefit that the person never used, and one last used a year ago
        ('available_benefits', WINDOW[-2:]),
        ('inactivity_periods', WINDOW),
    ],
)
def test_only_the_partitions_of_the_window_are_read(
    plans: Plans, name: str, expected: list[str]
) -> None:
    nodes = read(plans.of(name, venue=VENUE, timestamp=MOMENT))
    found = sorted({node['Relation Name'] for node in nodes})
    # a checkpoint ends the search for uses in a partition early
    assert found == expected or (name == 'inactivity_periods' and set(found) <= set(expected))


def test_role_is_granted_what_it_reads_and_indexes_of_the_whole_are_found(
    database: Database,
) -> None:
    checked = run_check(database.url.replace('postgres@', f'{ROLE}@'))
    assert (checked.returncode, checked.stderr) == (0, '')


def test_new_use_gets_the_next_id(database: Database) -> None:
    [ids] = database.connection.execute(
        'with new as (insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
        " values (2, 6, '2025-07-01') returning id)"
        ' select new.id, (select max(id) from benefit_usage) from new'
    ).fetchall()
    assert ids[0] == ids[1] + 1
    database.connection.execute('delete from benefit_usage where id = %s', ids[:1])
