"""On random data, every function file has the same result as its plain form."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.functions.conftest import SEVERAL_SERVERS
from tests.support.rows import Rows, body

T = datetime(2024, 7, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# every duration that a rule knows: a use is placed at T minus sums of these, and next to them
DURATIONS = [timedelta(days=days) for days in (0, 1, 7, 14, 21, 30, 180)]
VENUES, PEOPLE, BENEFITS, USES = 5, 4, 14, 260


def random_moment(chance: random.Random) -> datetime:
    """Return a moment on or a microsecond beside a boundary, or just anywhere around."""
    if chance.random() < 0.3:
        return T - timedelta(seconds=chance.randint(-20 * 86400, 200 * 86400))
    moment = T - chance.choice(DURATIONS) - chance.choice(DURATIONS)
    return moment + chance.choice([-MICROSECOND, timedelta(0), MICROSECOND])


def fill(rows: Rows, chance: random.Random) -> None:
    """Write random rows; the last venue has no benefits, the last benefit no uses."""
    rows.venues(*range(2, VENUES + 1))
    rows.people(*range(2, PEOPLE + 1))
    for id_ in range(1, BENEFITS + 1):
        recurrence = chance.choice(['day', 'week', 'month', 'day', 'week', 'month', 'year'])
        rows.benefit(id_, recurrence, venue=chance.randint(1, VENUES - 1))
    for _ in range(chance.randint(20, USES)):
        rows.uses(
            min(chance.randint(1, BENEFITS - 1), chance.randint(1, BENEFITS - 1)),
            random_moment(chance).replace(tzinfo=None),
            person=chance.randint(1, PEOPLE),
        )


def compare(rows: Rows, oracle: Rows, name: str, **values: object) -> None:
    assert body(rows, name, **values) == body(oracle, name, **values), (name, values)


def empty(rows: Rows) -> None:
    """Delete all rows but those that every test begins with."""
    for table in ('benefit_usage', 'benefit', 'person', 'venue'):
        rows.connection.execute(f'delete from {table}')
    rows.venues(1)
    rows.people(1)


def answers(rows: Rows, moments: list[datetime]) -> dict[tuple, list]:
    """Ask all that there is to ask; returns the bodies by what was asked."""
    bodies = {}
    for moment in moments:
        asked = [('top_benefits', {})]
        for venue in range(1, VENUES + 1):
            asked.append(('inactivity_periods', {'venue_id': venue}))
            for person in range(1, PEOPLE + 1):
                asked.append(('available_benefits', {'venue_id': venue, 'person_id': person}))
        for name, values in asked:
            bodies[name, moment, *values.values()] = body(rows, name, timestamp=moment, **values)
    return bodies


def compare_random_rows(rows: Rows, oracle: Rows) -> None:
    """Compare all answers for eight seeds: a rule that was changed is one failure."""
    for seed in range(8):
        fill(oracle, random.Random(seed))
        chance = random.Random(seed)
        fill(rows, chance)
        rows.connection.execute('analyze')
        near = [T, T - MICROSECOND, T + MICROSECOND]
        moments = [*near, random_moment(chance), random_moment(chance)]
        assert answers(rows, moments) == answers(oracle, moments)
        empty(rows)
        empty(oracle)


@pytest.mark.parametrize('rows', ['functions', *SEVERAL_SERVERS], indirect=True)
def test_answers_equal_those_of_the_plain_form(rows: Rows, oracle: Rows) -> None:
    compare_random_rows(rows, oracle)


@pytest.mark.parametrize('rows', ['functions'], indirect=True)
def test_answers_are_the_same_without_the_indexes(rows: Rows, oracle: Rows) -> None:
    rows.connection.execute(
        'drop index benefit_venue_id_idx, benefit_usage_benefit_id_usage_timestamp_idx,'
        ' benefit_usage_person_id_benefit_id_usage_timestamp_idx'
    )
    compare_random_rows(rows, oracle)
