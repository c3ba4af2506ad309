"""What the database sees of a session, who waits for one, and how often what fails is run."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from time import monotonic

import psycopg
import pytest
from api.database.functions import FOLDER, load_function
from api.database.sessions import Session, Sessions

from api.config import Settings
from api.database.errors import OverloadedError, UnavailableError
from api.http.problems import PROBLEMS
from api.telemetry.metrics import Metrics
from api.telemetry.timings import Timings
from tests.support import (
    DEADLINE_S,
    READY_FOR_QUERY,
    ApiProcess,
    Rows,
    locked_uses,
    make_slow,
    metric,
    reason,
    run_check,
    wait_for,
    wait_until_busy,
)
from tools.embedded import EmbeddedServer

AVAILABLE = '/venues/1/available-benefits?personId=1'
SETTINGS = ('statement_timeout', 'timezone', 'transaction_read_only', 'client_encoding')


def replace_by_view(rows: Rows, columns: str, condition: str) -> None:
    """Put a view in the place of the table of benefits."""
    rows.connection.execute('alter table benefit rename to benefit_rows')
    rows.connection.execute(
        f'create view benefit as select {columns} from benefit_rows where {condition}'
    )


def test_session_is_set_as_configured(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    rows.benefit(1)
    shown = " || ' ' || ".join(f"current_setting('{name}')" for name in SETTINGS)
    replace_by_view(rows, f'id, "venueId", {shown} as title, recurrence', 'true')
    api = start_api(DATABASE_URL=database_url, API_STATEMENT_TIMEOUT_S='7')
    [benefit] = api.get(AVAILABLE).json()
    assert benefit['title'] == '7s UTC on UTF8'


@pytest.mark.slow
def test_report_has_a_timeout_of_its_own(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess]
) -> None:
    make_slow(rows, 4)
    api = start_api(
        DATABASE_URL=database_url,
        API_WORKERS='1',
        API_POOL_SIZE='1',  # so both run in the same session
        API_STATEMENT_TIMEOUT_S='1',
        API_REPORT_TIMEOUTS_S='{inactivity_periods = 60}',
    )
    for _ in range(2):
        answer = api.get(AVAILABLE)
        assert answer.status_code == 504
        assert answer.json()['detail'] == PROBLEMS['statement-timeout'].meaning
        assert api.get('/venues/1/inactivity-periods').status_code == 200
    wait_for(lambda: 'level=warning event="statement cancelled: 57014"' in api.output())


def test_report_that_is_not_there_has_no_timeout(database_url: str) -> None:
    checked = run_check(database_url, API_REPORT_TIMEOUTS_S='{worst_benefits = 9}')
    reports = 'top_benefits, available_benefits, inactivity_periods'
    assert reason(checked) == f'error: report_timeouts_s: worst_benefits is none of {reports}'


def test_report_has_no_timeout_of_its_own_where_sessions_are_not_set(database_url: str) -> None:
    settings = {'API_REPORT_TIMEOUTS_S': '{top_benefits = 9}', 'API_SESSION_SETTINGS': 'false'}
    message = 'report_timeouts_s: must be empty where session_settings is false'
    assert reason(run_check(database_url, **settings)) == f'error: {message}'


@pytest.mark.parametrize(
    'failure',
    [
        'perform pg_terminate_backend(pg_backend_pid())',
        "raise serialization_failure using message = 'again'",
        "raise deadlock_detected using message = 'again'",
    ],
    ids=['connection lost', '40001', '40P01'],
)
def test_statement_that_fails_twice_is_not_run_again(
    rows: Rows, database_url: str, start_api: Callable[..., ApiProcess], failure: str
) -> None:
    function = 'create or replace function fail() returns boolean language plpgsql as'
    rows.connection.execute('create sequence runs')
    rows.connection.execute(f'{function} $$ begin return true; end $$')
    rows.benefit(1)
    replace_by_view(rows, '*', 'fail()')
    # a sequence is not for sessions that only read
    api = start_api(DATABASE_URL=database_url, API_SESSION_SETTINGS='false', API_WORKERS='1')
    rows.connection.execute(
        f"{function} $$ begin perform nextval('runs'); {failure}; return true; end $$"
    )
    answer = api.get(AVAILABLE)
    assert answer.status_code == 503
    assert answer.json()['type'] == '/docs/problems/database-unavailable'
    assert answer.json()['detail'] == PROBLEMS['database-unavailable'].meaning
    assert rows.connection.execute('select last_value from runs').fetchone() == (2,)
    wait_for(lambda: metric(api, 'database_retries_total') == 1)
    wait_for(lambda: 'level=warning event="database unavailable: ' in api.output())
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f'{function} $$ begin return true; end $$')
    assert api.get(AVAILABLE).status_code == 200


def test_server_cancels_in_time_and_the_session_stays(database_url: str) -> None:
    with Session.connect(database_url, autocommit=True) as session:
        session.set_up(Settings(statement_timeout_s=0.5))
        session.patience_s = DEADLINE_S
        for _ in range(5):
            with pytest.raises(psycopg.errors.QueryCanceled, match='statement timeout'):
                session.execute('select pg_sleep(60)')


# to the login, and to the two statements that set a session up
ANSWERS_OF_SET_UP = 3
# the sessions of the pool that open_sessions opens
OF_POOL = (
    "from pg_stat_activity where application_name = 'membership-benefits-api/one'"
    ' and datname = current_database()'
)


@contextmanager
def open_sessions(url: str, **settings: object) -> Iterator[tuple[Sessions, Callable]]:
    """Open a pool, by default of one session; yields it, and what fetches answers with it."""
    function = load_function(FOLDER / 'inactivity_periods.sql')
    values = {'venue_id': 1, 'timestamp': None}
    defaults = {
        'pool_size': 1,
        'connect_timeout_s': DEADLINE_S,
        'pool_timeout_s': DEADLINE_S,
        'statement_timeout_s': 2.0 * DEADLINE_S,
    }
    configured = Settings(database_url=url, **defaults | settings)
    with closing(Sessions(configured, Metrics(), name='one')) as sessions:

        def fetch(wait_s: float = DEADLINE_S) -> bytes:
            return bytes(sessions.fetch(function, values, monotonic() + wait_s, Timings())[0])

        yield sessions, fetch


def test_who_has_waited_for_its_turn_already_still_gets_a_session(
    rows: Rows, database_url: str
) -> None:
    with open_sessions(database_url) as (_, fetch):
        assert fetch() == fetch(wait_s=-1) == b'[]'


def test_sign_of_life_waits_for_a_session_as_long_as_configured(
    rows: Rows, database_url: str
) -> None:
    rows.benefit(1)
    with open_sessions(database_url, pool_timeout_s=0.5) as (sessions, fetch):
        with ThreadPoolExecutor(1) as clients:
            with locked_uses(database_url):
                running = clients.submit(fetch)
                wait_until_busy(rows, 'inactivity')
                begun = monotonic()
                with pytest.raises(OverloadedError):
                    sessions.ping()
                assert monotonic() - begun > 0.4
            assert running.result(DEADLINE_S).startswith(b'[{')
        sessions.ping()


def test_sign_of_life_is_waited_for_as_a_report_without_a_limit_of_its_own(
    rows: Rows, database_url: str
) -> None:
    settings = {'statement_timeout_s': 1.0, 'report_timeouts_s': {'inactivity_periods': 3600.0}}
    with open_sessions(database_url, **settings) as (sessions, fetch):
        fetch()
        [[pid]] = rows.connection.execute(f'select pid {OF_POOL}').fetchall()
        with ThreadPoolExecutor(1) as clients:
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(UnavailableError):
                    clients.submit(sessions.ping).result(DEADLINE_S)
            finally:
                os.kill(pid, signal.SIGCONT)


class Relay:
    """A way to a server that holds back how connections are made, but for the first.

    The second is held in its last moment, when the server has no more to do with it; those that
    come later from their beginning.
    """

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = f'{server.base_dir}/tmp/.s.PGSQL.5432'
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self.taken_in = 0
        self.second_is_made, self.release_second, self.release_others = (
            threading.Event() for _ in range(3)
        )
        self.second_has_ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self.taken_in += 1
                for way in (self._to_server, self._to_client):
                    arguments = (client, server, self.taken_in)
                    threading.Thread(target=way, args=arguments, daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket, number: int) -> None:
        with suppress(OSError):
            while said := client.recv(4096):
                server.sendall(said)
        if number == 2:
            self.second_has_ended.set()

    def _to_client(self, client: socket.socket, server: socket.socket, number: int) -> None:
        answers = 0
        with suppress(OSError), client, server:
            with suppress(ConnectionResetError):  # by a server that ends with something unread
                while said := server.recv(4096):
                    answers += said.count(READY_FOR_QUERY)
                    if number == 2 and answers == ANSWERS_OF_SET_UP:
                        self.second_is_made.set()
                        self.release_second.wait(DEADLINE_S)
                    if number > 2:
                        self.release_others.wait(DEADLINE_S)
                    client.sendall(said)
            # the other thread reads from it, so that closing it tells the client nothing
            client.shutdown(socket.SHUT_WR)

    def __enter__(self) -> 'Relay':
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.release_second.set()
        self.release_others.set()


def test_session_that_was_being_made_when_others_were_lost_is_not_used(
    rows: Rows, database_url: str, server: EmbeddedServer
) -> None:
    name = rows.connection.info.dbname
    pool = {'pool_size': 2, 'pool_min_size': 2}
    with Relay(server) as relay, ThreadPoolExecutor(1) as clients:
        url = f'postgresql://postgres@127.0.0.1:{relay.port}/{name}?sslmode=disable'
        with open_sessions(url, **pool) as (_, fetch):
            assert fetch() == b'[]'
            assert relay.second_is_made.wait(DEADLINE_S)
            rows.connection.execute(f'select pg_terminate_backend(pid) {OF_POOL}')
            wait_for(lambda: rows.connection.execute(f'select 1 {OF_POOL}').fetchone() is None)
            answer = clients.submit(fetch)
            # the first is lost, and another is being made for it
            wait_for(lambda: relay.taken_in == 3)
            relay.release_second.set()
            assert relay.second_has_ended.wait(DEADLINE_S)
            relay.release_others.set()
            assert answer.result(DEADLINE_S) == b'[]'


def test_statement_that_lost_its_session_waits_for_a_new_one(rows: Rows, database_url: str) -> None:
    # much longer than who has waited already waits
    slow_to_connect = f'{database_url}&options=-c%20post_auth_delay%3D1'
    with open_sessions(slow_to_connect) as (_, fetch):
        assert fetch() == b'[]'
        rows.connection.execute(f'select pg_terminate_backend(pid) {OF_POOL}')
        wait_for(lambda: rows.connection.execute(f'select count(*) {OF_POOL}').fetchone() == (0,))
        assert fetch(wait_s=-1) == b'[]'
