"""Ids with gaps and at the ends of their type, and the beginning of the calendar."""

import random
from datetime import datetime, timedelta

import pytest

from tests.functions.test_plain_forms import compare
from tests.support import Rows, body

T = datetime(2024, 7, 1, 12)
VENUES, BENEFITS, USES = 9, 400, 4000


def fill(rows: Rows, chance: random.Random) -> None:
    """Write hundreds of benefits with gaps between their ids, and thousands of uses."""
    ids = [-(2**31), 2**31 - 1, *chance.sample(range(-3000, 90_000), BENEFITS - 2)]
    rows.venues(*range(2, VENUES + 1))
    with rows.connection.cursor() as cursor:
        recurrences = ('day', 'week', 'month', 'year')
        cursor.executemany(
            'insert into benefit values (%s, %s, %s, %s)',
            [
                (id_, chance.randint(1, VENUES - 1), 'Benefit', chance.choice(recurrences))
                for id_ in ids
            ],
        )
        cursor.executemany(
            'insert into benefit_usage ("personId", "benefitId", "usageTimestamp")'
            ' values (1, %s, %s)',
            # the lowest and the highest id most often, the last ones of the list never
            [
                (
                    ids[int((BENEFITS - 9) * chance.random() ** 4)],
                    T - timedelta(minutes=chance.randint(-9999, 300_000)),
                )
                for _ in range(USES)
            ],
        )


@pytest.mark.parametrize('seed', range(3))
def test_hundreds_of_benefits_with_gaps_between_their_ids(
    rows: Rows, oracle: Rows, seed: int
) -> None:
    for each in (rows, oracle):
        fill(each, random.Random(seed))
    rows.connection.execute('analyze')
    compare(rows, oracle, 'top_benefits', timestamp=T)
    for venue in range(1, VENUES + 1):
        compare(rows, oracle, 'inactivity_periods', venue_id=venue, timestamp=T)
        compare(rows, oracle, 'available_benefits', venue_id=venue, person_id=1, timestamp=T)


def test_nothing_counts_before_the_calendar_begins(rows: Rows, oracle: Rows) -> None:
    for each in (rows, oracle):
        each.benefit(1)
        each.uses(1, '0001-12-31 BC', '0001-01-01', '0001-01-01 00:00:00.000001', '0001-01-20')
    moment = '0001-02-01T00:00:00+00:00'
    [venue] = body(rows, 'top_benefits', timestamp=moment)
    assert venue['topBenefits180Days'] == [{'benefitId': 1, 'usageCount': 2}]
    [benefit] = body(rows, 'inactivity_periods', venue_id=1, timestamp=moment)
    assert benefit['inactivityPeriods'] == [
        {
            'startTime': '0001-01-01T00:00:00.000001+00:00',
            'endTime': '0001-01-20T00:00:00+00:00',
        }
    ]
    compare(rows, oracle, 'top_benefits', timestamp=moment)
    compare(rows, oracle, 'inactivity_periods', venue_id=1, timestamp=moment)
    compare(rows, oracle, 'available_benefits', venue_id=1, person_id=1, timestamp=moment)
