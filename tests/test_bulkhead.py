"""Who waits on the way to the database, who makes way for others, and who is refused."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest
from api.database.bulkhead import Bulkhead
from api.database.functions import FOLDER, load_function
from api.database.sessions import Answer, Sessions

from api.config import Settings
from api.database.errors import OverloadedError
from api.telemetry.metrics import Metrics
from api.telemetry.timings import Timings
from tests.support import DEADLINE_S, Rows, locked_uses, wait_for, wait_until_busy

FUNCTION = load_function(FOLDER / 'available_benefits.sql')


class Way:
    """A bulkhead before sessions of its own, and threads that use it.

    Attributes:
        made_way: How often somebody let others be served.
    """

    def __init__(self, stack: ExitStack, **settings: object) -> None:
        self.made_way = 0
        self._lock = threading.Lock()
        self._metrics = Metrics()
        patience = {
            'connect_timeout_s': DEADLINE_S,
            'pool_timeout_s': DEADLINE_S,
            'statement_timeout_s': 2.0 * DEADLINE_S,
        }
        configured = Settings(pool_size=2, pool_min_size=2, **patience | settings)
        self._sessions = Sessions(configured, self._metrics, name='way')
        stack.callback(self._sessions.close)
        self._bulkhead = Bulkhead(self._sessions, configured, self._metrics, self._make_way)
        self._threads = stack.enter_context(ThreadPoolExecutor(8))

    def _make_way(self) -> None:
        with self._lock:
            self.made_way += 1

    def ask(self, person: int, *, is_slow: bool = False) -> Answer:
        """Ask what is available to a person."""
        values = {'venue_id': 1, 'person_id': person, 'timestamp': None}
        return self._bulkhead.fetch(FUNCTION, values, Timings(), is_slow=is_slow)

    def begin(self, person: int, *, is_slow: bool = False) -> Future[Answer]:
        """Ask in a thread."""
        return self._threads.submit(self.ask, person, is_slow=is_slow)

    def is_ready(self) -> bool:
        """Tell whether both sessions are there."""
        self._sessions.publish_figures()
        return b'database_connections{state="idle"} 2.0' in self._metrics.exposition()

    def has_shared(self, count: int) -> bool:
        """Tell whether so many answers were taken from identical requests."""
        return b'shared_answers_total %.1f' % count in self._metrics.exposition()


@contextmanager
def way(rows: Rows, url: str, **settings: object) -> Iterator[Way]:
    """Build it for the block of a with statement."""
    rows.benefit(1)
    rows.people(2, 3, 4)
    with ExitStack() as stack:
        built = Way(stack, database_url=url, **settings)
        wait_for(built.is_ready)
        yield built


def test_only_who_finds_no_connection_makes_way_and_one_too_many_is_refused(
    rows: Rows, database_url: str
) -> None:
    settings = {'pool_max_waiting': 1, 'pool_timeout_s': 2.0 * DEADLINE_S}
    with way(rows, database_url, **settings) as built:
        with locked_uses(database_url):
            answers = [built.begin(1), built.begin(2)]
            wait_until_busy(rows, count=2)
            assert built.made_way == 0
            answers.append(built.begin(3))
            wait_for(lambda: built.made_way == 1)
            with pytest.raises(OverloadedError):
                built.ask(4)
            assert not any(answer.done() for answer in answers)
        assert [answer.result(DEADLINE_S)[1] for answer in answers] == [None] * 3
        assert built.made_way == 1


def test_place_of_who_was_inside_is_free_again(rows: Rows, database_url: str) -> None:
    with way(rows, database_url, pool_max_waiting=0) as built:
        for _ in range(2):
            with locked_uses(database_url):
                answers = [built.begin(1), built.begin(2)]
                wait_until_busy(rows, count=2)
                with pytest.raises(OverloadedError):
                    built.ask(3)
            assert [answer.result(DEADLINE_S)[1] for answer in answers] == [None] * 2
        assert built.made_way == 0


def test_who_waits_for_an_identical_request_makes_way(rows: Rows, database_url: str) -> None:
    with way(rows, database_url) as built:
        with locked_uses(database_url):
            first = built.begin(1)
            wait_until_busy(rows)
            second = built.begin(1)
            wait_for(lambda: built.has_shared(1))
            assert built.made_way == 1
        assert first.result(DEADLINE_S) is second.result(DEADLINE_S)


def test_who_waits_aside_leaves_the_connections_to_the_others(
    rows: Rows, database_url: str
) -> None:
    with way(rows, database_url, pool_max_waiting=1) as built:
        with locked_uses(database_url):
            slow = [built.begin(1, is_slow=True)]
            wait_until_busy(rows)
            slow.append(built.begin(1, is_slow=True))
            wait_for(lambda: built.made_way == 1)
            for person in (1, 2):  # an identical one, and one that waits for its turn
                with pytest.raises(OverloadedError):
                    built.ask(person, is_slow=True)
            quick = built.begin(3)
            wait_until_busy(rows, count=2)
        for answer in (*slow, quick):
            assert answer.result(DEADLINE_S)[1] is None
        assert built.made_way == 1


def test_who_waits_among_the_slow_makes_way_and_waits_no_longer_than_configured(
    rows: Rows, database_url: str
) -> None:
    with way(rows, database_url, pool_timeout_s=0.5) as built:
        with locked_uses(database_url):
            first = built.begin(1, is_slow=True)
            wait_until_busy(rows)
            assert built.made_way == 0
            begun = monotonic()
            second = built.begin(2, is_slow=True)
            wait_for(lambda: built.made_way == 1)
            quick = built.begin(3)
            wait_until_busy(rows, count=2)
            assert isinstance(second.exception(DEADLINE_S), OverloadedError)
            assert monotonic() - begun > 0.4
            assert not first.done()
        assert [answer.result(DEADLINE_S)[1] for answer in (first, quick)] == [None] * 2
        # its turn is free again
        assert built.ask(2, is_slow=True)[1] is None
