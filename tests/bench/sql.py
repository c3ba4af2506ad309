"""The reports in SQL: the function files and their plain forms, with different numbers of uses."""

import random
import time
from collections.abc import Callable
from statistics import median

import psycopg
from psycopg.types.json import set_json_loads

from api.database.queries import FOLDER, Query, load_query
from tests.bench.data import Databases, Size
from tests.bench.results import AVAILABLE, INACTIVITY, REPORTS, TOP
from tests.support.rows import PLAIN

# a lower limit for top_benefits: read the uses of the 180 days once, with as many processes
BARE_COUNT = """
    select count(*)
    from benefit_usage
    where
        "usageTimestamp" > now() at time zone 'UTC' - interval '180 days'
        and "usageTimestamp" <= now() at time zone 'UTC'
"""
BUSIEST_VENUE = """
    select benefit."venueId"
    from benefit_usage
    inner join benefit on benefit_usage."benefitId" = benefit.id
    group by benefit."venueId"
    order by count(*) desc
    limit 1
"""
# from its sixth run on, a prepared statement may have a generic plan
WARM_UP_ROUNDS = 6
TURN_S = 0.05


def forms(report: str) -> dict[str, Query]:
    """Return the statements that are compared for a report, by the name of the form."""
    ours = load_query(FOLDER / f'{report}.sql')
    if report == TOP:
        return {'ours': ours, 'count': Query(PLAIN, BARE_COUNT.encode(), ())}
    return {'ours': ours, 'plain': load_query(PLAIN / f'{report}.sql')}


def draws(size: Size, venue: int) -> dict[str, Callable[[], dict]]:
    """Return, for each report, what draws the parameters of its next run."""
    chance = random.Random(1)
    return {
        TOP: lambda: {'timestamp': None},
        INACTIVITY: lambda: {'timestamp': None, 'venue_id': venue},
        AVAILABLE: lambda: {
            'timestamp': None,
            'venue_id': chance.randint(1, size.venues),
            'person_id': chance.randint(1, size.persons),
        },
    }


def turn(connection: psycopg.Connection, query: Query, draw: Callable[[], dict]) -> float:
    """Repeat a query for TURN_S, at least once; returns the median in milliseconds."""
    times = []
    while sum(times) < TURN_S:
        values = draw()
        ordered = [values[each.name] for each in query.parameters]
        started = time.perf_counter()
        connection.execute(query.sql, ordered, prepare=True).fetchone()
        times.append(time.perf_counter() - started)
    return round(median(times) * 1000, 4)


def measure(
    databases: Databases, sizes: list[int], rounds: int, *, has_indexes: bool = True
) -> list[dict]:
    """Measure every report in SQL.

    Args:
        databases: The databases.
        sizes: The numbers of uses, the largest last.
        rounds: How often every form is measured, in milliseconds.
        has_indexes: Whether the recommended indexes are there.
    """
    with psycopg.connect(databases.url(sizes[-1], has_indexes=has_indexes)) as connection:
        venue = connection.execute(BUSIEST_VENUE).fetchone()[0]
    draw = draws(databases.size, venue)
    records = []
    for usages in sizes:
        url = databases.url(usages, has_indexes=has_indexes)
        with psycopg.connect(url, autocommit=True) as connection:
            # like the service
            set_json_loads(bytes, connection)
            connection.cursor_factory = psycopg.RawCursor
            print(f'PostgreSQL {databases.version}: measuring with {usages:,} uses', flush=True)
            for report in REPORTS:
                ms = {form: [] for form in forms(report)}
                for number in range(WARM_UP_ROUNDS + rounds):
                    # in a round, each form runs once
                    for form, query in forms(report).items():
                        took = turn(connection, query, draw[report])
                        ms[form] += [took] if number >= WARM_UP_ROUNDS else []
                records.append({'report': report, 'uses': usages, 'ms': ms})
    return records
