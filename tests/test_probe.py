"""A crowd that asks for a sign of life costs no more than one of them, and does not wait."""

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


def test_while_one_asks_the_others_go_on_with_what_was_known_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, 'HOLDS_S', 0.0)
    database = Database()
    database.answers.set()
    shared = probe.Probe(database.ask)
    shared.ping()
    database.answers.clear()
    with ThreadPoolExecutor(1) as crowd:
        try:
            asking = crowd.submit(shared.ping)
            wait_for(lambda: database.asked == 2)
            monkeypatch.setattr(probe, 'HOLDS_S', 2.0 * DEADLINE_S)
            assert [shared.ping() for _ in range(8)] == [None] * 8
            monkeypatch.setattr(probe, 'HOLDS_S', 0.0)
            for _ in range(8):
                with pytest.raises(UnavailableError, match='silent'):
                    shared.ping()
        finally:
            monkeypatch.setattr(probe, 'HOLDS_S', 2.0 * DEADLINE_S)
            database.answers.set()
    assert asking.result(DEADLINE_S) is None
    shared.ping()
    assert database.asked == 2


def test_before_the_first_answer_all_wait_for_it_for_a_moment(
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
