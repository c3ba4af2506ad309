"""The reports in SQL: ours against the plain forms, on histories of several lengths."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psycopg
from psycopg.types.json import set_json_loads
from psycopg.types.numeric import Int8Dumper

from api.database.functions import FOLDER, load_function
from tests.bench.data import Databases, Size, busiest_venue
from tests.bench.progress import Steps
from tests.bench.results import AVAILABLE, INACTIVITY, TOP

PLAIN = Path(__file__).parents[1] / 'functions' / 'plain'
# reading the window once, by as many processes as the server likes
BARE_COUNT = """
    select count(*)
    from benefit_usage
    where
        "usageTimestamp" > now() at time zone 'UTC' - interval '180 days'
        and "usageTimestamp" <= now() at time zone 'UTC'
"""
# from its sixth run on, a prepared statement may have a plan for any values
WARM_UP_RUNS = 6
TURN_S = 0.05

Action = Callable[[], object]


@contextmanager
def session(url: str, plan_cache_mode: str = 'auto') -> Iterator[psycopg.Connection]:
    """Connect as the service does: bodies as bytes, every integer a bigint."""
    options = f'-c plan_cache_mode={plan_cache_mode}'
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        set_json_loads(bytes, connection)
        connection.adapters.register_dumper(int, Int8Dumper)
        yield connection


def draws(size: Size, venue: int) -> dict[str, Callable[[], dict]]:
    """Return what gives each report's parameters, new ones each time."""
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


def statement(
    connection: psycopg.Connection, path: Path, values: Callable[[], dict]
) -> Callable[[], bytes]:
    """Return a function that runs a SQL file prepared, each time with new values."""
    sql = load_function(path).sql
    return lambda: connection.execute(sql, values(), prepare=True).fetchone()[0]


def prepared(connection: psycopg.Connection, sql: str) -> Action:
    """Return a function that runs a statement without parameters, prepared."""
    return lambda: connection.execute(sql, prepare=True).fetchone()


def turn(action: Action) -> float:
    """Run an action for a moment, at least once; returns the median in milliseconds."""
    times = []
    while sum(times) < TURN_S:
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return round(median(times) * 1000, 4)


def measure(
    part: str, databases: Databases, sizes: list[int], reports: list[str], rounds: int
) -> Iterator[dict]:
    """Measure reports and their plain forms in turns (A, B, A, B ...).

    Args:
        part: What is told to be measured.
        databases: Where.
        sizes: With how many uses.
        reports: Which reports.
        rounds: How many turns each form has on each size.

    Yields:
        For each report and number of uses, each form's rounds in milliseconds.

    Raises:
        AssertionError: A report and its plain form differ.
    """
    urls = {usages: databases.url(usages) for usages in sizes}
    draw = draws(databases.size, busiest_venue(urls[max(sizes)]))
    with ExitStack() as stack, Steps(part, len(reports) * (1 + 2 * rounds)) as steps:
        sessions = {usages: stack.enter_context(session(url)) for usages, url in urls.items()}
        # as somebody types it, the plain form is planned for its values, and runs on all cores
        typed = {
            usages: stack.enter_context(session(url, 'force_custom_plan'))
            for usages, url in urls.items()
        }
        for report in reports:
            actions: dict[tuple[str, int], Action] = {}
            for usages, connection in sessions.items():
                ours, plain = (folder / f'{report}.sql' for folder in (FOLDER, PLAIN))
                actions['ours', usages] = statement(connection, ours, draw[report])
                actions['plain', usages] = statement(typed[usages], plain, draw[report])
                if report == TOP:
                    actions['count', usages] = prepared(connection, BARE_COUNT)
            alone = {key: action for key, action in actions.items() if key[0] == 'ours'}
            with steps.step(f'{report}, warming up'):
                for connection in sessions.values():
                    check_agreement(connection, report, draw[report]())
                for action in list(alone.values()) * WARM_UP_RUNS + list(actions.values()):
                    action()
            found = {key: [] for key in actions}
            # between the sizes, the plain forms would take seconds and sweep the caches
            of_sizes = {key: [] for key in alone}
            for times in (found, of_sizes):
                for number in range(1, rounds + 1):
                    with steps.step(f'{report}, round {number} of {rounds}'):
                        for key in times:
                            times[key].append(turn(actions[key]))
            for usages in sizes:
                of_forms = {form: ms for (form, uses), ms in found.items() if uses == usages}
                yield {
                    'postgresql': databases.version,
                    'report': report,
                    'uses': usages,
                    'ms': of_forms | {'alone': of_sizes['ours', usages]},
                }


def check_agreement(connection: psycopg.Connection, report: str, values: dict) -> None:
    """Raise an AssertionError unless both forms give the same answer as of one moment."""
    moment = connection.execute('select now()').fetchone()[0].isoformat()
    fixed = values | {'timestamp': moment}
    ours, plain = (
        statement(connection, folder / f'{report}.sql', lambda: fixed)()
        for folder in (FOLDER, PLAIN)
    )
    assert ours == plain, f'{report} and its plain form differ'


def warm_time_s(url: str, size: Size, report: str) -> float:
    """Return how long a report takes, roughly, in seconds."""
    with session(url) as connection:
        run = statement(connection, FOLDER / f'{report}.sql', draws(size, 1)[report])
        run()
        return turn(run) / 1000
