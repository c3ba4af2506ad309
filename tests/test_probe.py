"""A crowd that asks for a sign of life costs no more than one of them, and waits for nobody."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.database import probe
from api.database.errors import UnavailableError
from tests.support import DEADLINE_S, until, wait_for


class Database:
    """Counts how often it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def ask(self) -> None:
        """Wait for leave to answer."""
        self.asked += 1
        assert self.answers.wait(DEADLINE_S)


def test_crowd_that_is_there_first_waits_for_the_answer_to_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, 'HOLDS_S', 2.0 * DEADLINE_S)
    database = Database()
    shared = probe.Probe(database.ask)
    with ThreadPoolExecutor(8) as crowd:
        pings = [crowd.submit(shared.ping) for _ in range(8)]
        wait_for(lambda: database.asked == 1)
        database.answers.set()
        assert [ping.result(DEADLINE_S) for ping in pings] == [None] * 8
    assert database.asked == 1


def test_who_comes_while_one_asks_goes_on_with_what_was_known() -> None:
    database = Database()
    database.answers.set()
    shared = probe.Probe(database.ask)
    shared.ping()
    database.answers.clear()
    with ThreadPoolExecutor(2) as crowd:
        try:
            for _ in until():
                if database.asked == 2:
                    break
                crowd.submit(shared.ping)
            # each would wait for a moment or for ever if it waited
            others = crowd.submit(lambda: [shared.ping() for _ in range(2 * DEADLINE_S)])
            assert others.result(DEADLINE_S) == [None] * 2 * DEADLINE_S
            assert database.asked == 2
        finally:
            database.answers.set()


def test_answer_holds_for_a_moment_and_no_longer() -> None:
    failures = iter([UnavailableError('gone'), None, None])
    asked = []

    def ask() -> None:
        asked.append(1)
        if failure := next(failures):
            raise failure

    shared = probe.Probe(ask)
    found = []
    for _ in until():
        try:
            shared.ping()
            found.append(None)
        except UnavailableError as ex:
            found.append(str(ex))
        if len(asked) == 3:
            break
    assert len(asked) == 3
    # what it was is told until it is asked again
    changes = [one for one, before in zip(found, [*found[1:], 'end'], strict=True) if one != before]
    assert changes == ['gone', None]
    assert len(found) > len(asked)
