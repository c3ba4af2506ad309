"""The reports in SQL: ours against the plain forms, on histories of three lengths."""

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
from tests.bench.data import Size

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
MIN_ROUNDS = 15
TURN_S = 0.05


@contextmanager
def session(url: str, plan_cache_mode: str = 'auto') -> Iterator[psycopg.Connection]:
    """Connect as the service does: bodies as bytes, every integer a bigint."""
    options = f'-c plan_cache_mode={plan_cache_mode}'
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        set_json_loads(bytes, connection)
        connection.adapters.register_dumper(int, Int8Dumper)
        yield connection


def statement(
    connection: psycopg.Connection, path: Path, values: Callable[[], dict]
) -> Callable[[], bytes]:
    """Return a function that runs a SQL file prepared, each time with new values."""
    sql = load_function(path).sql
    return lambda: connection.execute(sql, values(), prepare=True).fetchone()[0]


def turn(action: Callable[[], object]) -> float:
    """Run an action for a moment, at least once; returns the median in seconds."""
    times = []
    while sum(times) < TURN_S:
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return median(times)


def interleaved(actions: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Run actions in turns (A, B, A, B ...).

    Args:
        actions: What to run, by name.
        seconds: How long at least, after the warm-up.

    Returns:
        Each action's rounds in seconds, by name.
    """
    for action in actions.values():
        for _ in range(WARM_UP_RUNS):
            action()
    rounds = []
    started = time.monotonic()
    while len(rounds) < MIN_ROUNDS or time.monotonic() - started < seconds:
        rounds.append({name: turn(action) for name, action in actions.items()})
    return {name: [times[name] for times in rounds] for name in actions}


def ratio(these: list[float], those: list[float]) -> float:
    """Return the median of the rounds' ratios.

    The two of a round ran next to each other, so what the machine did besides weighed on both.
    """
    return round(median(this / that for this, that in zip(these, those, strict=True)), 2)


def measure(
    urls: dict[int, str], size: Size, venue: int, seconds: float, say: Callable[[str], None]
) -> list[dict]:
    """Measure each report in both forms.

    Args:
        urls: The databases, by how many uses they have.
        size: What they have besides.
        venue: The venue whose inactivity periods are asked for.
        seconds: How long to measure each report at least.
        say: Where to tell what happens.

    Returns:
        A row for each report and number of uses; growth is against the fewest.
    """
    chance = random.Random(1)
    values = {
        'top_benefits': lambda: {'timestamp': None},
        'inactivity_periods': lambda: {'timestamp': None, 'venue_id': venue},
        'available_benefits': lambda: {
            'timestamp': None,
            'venue_id': chance.randint(1, size.venues),
            'person_id': chance.randint(1, size.persons),
        },
    }
    rows = []
    with ExitStack() as stack:
        sessions = {usages: stack.enter_context(session(url)) for usages, url in urls.items()}
        # as somebody types it, the plain form is planned for its values, and runs on all cores
        typed = {
            usages: stack.enter_context(session(url, 'force_custom_plan'))
            for usages, url in urls.items()
        }
        for report, draw in values.items():
            say(f'{report}: ours and the plain form in turns ...')
            actions = {}
            for usages, connection in sessions.items():
                check_agreement(connection, report, draw())
                ours, plain = (folder / f'{report}.sql' for folder in (FOLDER, PLAIN))
                actions[f'ours {usages}'] = statement(connection, ours, draw)
                actions[f'plain {usages}'] = statement(typed[usages], plain, draw)
                actions[f'cached {usages}'] = statement(connection, plain, draw)
                if report == 'top_benefits':
                    actions[f'count {usages}'] = prepared(connection, BARE_COUNT)
            times = interleaved(actions, seconds)
            # the plain forms would stand between the sizes: many seconds, and the caches swept
            ours_only = {name: action for name, action in actions.items() if 'ours' in name}
            sizes = interleaved(ours_only, seconds)
            for usages in urls:
                growth = ratio(sizes[f'ours {usages}'], sizes[f'ours {min(urls)}'])
                rows.append(row(report, usages, times, growth))
    return rows


def prepared(connection: psycopg.Connection, sql: str) -> Callable[[], object]:
    """Return a function that runs a statement without parameters, prepared."""
    return lambda: connection.execute(sql, prepare=True).fetchone()


def check_agreement(connection: psycopg.Connection, report: str, values: dict) -> None:
    """Raise an AssertionError unless both forms give the same answer as of one moment."""
    moment = connection.execute('select now()').fetchone()[0].isoformat()
    fixed = values | {'timestamp': moment}
    ours, plain = (
        statement(connection, folder / f'{report}.sql', lambda: fixed)()
        for folder in (FOLDER, PLAIN)
    )
    assert ours == plain, f'{report} and its plain form differ'


def row(report: str, usages: int, times: dict[str, list[float]], growth: float) -> dict:
    """Return a row of the table; times are each round's seconds, by form and uses."""
    ours, plain, cached = (times[f'{form} {usages}'] for form in ('ours', 'plain', 'cached'))
    count = times.get(f'count {usages}')
    return {
        'report': report,
        'uses': usages,
        'ours_ms': round(median(ours) * 1000, 3),
        'plain_ms': round(median(plain) * 1000, 3),
        'plain/ours': ratio(plain, ours),
        'plain_cached_ms': round(median(cached) * 1000, 3),
        'growth': growth,
        'count_ms': count and round(median(count) * 1000, 3),
        'ours/count': count and ratio(ours, count),
    }
