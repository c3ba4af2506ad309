"""Hundreds of benefits, with gaps between ids, and ids at the limits of their type."""

import random
from datetime import datetime, timedelta

import pytest

from tests.functions.conftest import SEVERAL_SERVERS
from tests.functions.test_plain_forms import compare
from tests.support.rows import Rows

T = datetime(2024, 7, 1, 12)
VENUES, BENEFITS, USES = 9, 400, 4000


def fill(rows: Rows, chance: random.Random) -> None:
    """Insert hundreds of benefits with gaps between their ids, and thousands of uses."""
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


@pytest.mark.parametrize('rows', ['functions', *SEVERAL_SERVERS], indirect=True)
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
