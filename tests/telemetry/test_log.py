"""The log: whole lines in two formats, and a reader that does not read holds up no request."""

import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from api.telemetry.log import MAX_LINES, RENDERERS, LineFormatter
from tests.faults.load import Load
from tests.support.commands import patient_environment
from tests.support.machine import is_listening
from tests.support.project import ROOT
from tests.support.service import ApiProcess, client_of_each_worker, metric
from tests.support.waiting import DEADLINE_S, wait_for

PIPE_BYTES = 4096
WHOLE_LINE = re.compile(rb'timestamp=\S+Z level=\w+ event=((?!timestamp=).)*')


class PipedApi:
    """An API process whose log goes to a small pipe.

    Attributes:
        process: The process.
        url: Where it answers.
        lines: What was read of the pipe.
    """

    def __init__(self, database_url: str, port: int, workers: str) -> None:
        self._reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        settings = {'DATABASE_URL': database_url, 'API_PORT': str(port), 'API_WORKERS': workers}
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'api'],
            cwd=ROOT,
            env=patient_environment() | settings,
            stderr=writing,
        )
        os.close(writing)
        self.url = f'http://127.0.0.1:{port}'
        self.port = port
        self.lines: list[bytes] = []
        wait_for(lambda: is_listening(port))

    def read(self) -> threading.Thread:
        """Begin to read the pipe to its end."""
        thread = threading.Thread(target=self._read)
        thread.start()
        return thread

    def _read(self) -> None:
        with os.fdopen(self._reading, 'rb') as pipe:
            for line in pipe:
                self.lines.append(line.removesuffix(b'\n'))

    def stop(self) -> None:
        """End it, and what it has started."""
        if self.process.poll() is None:
            for worker in psutil.Process(self.process.pid).children():
                worker.kill()
        self.process.kill()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def start_piped(sample_url: str, unused_port: int) -> Iterator[Callable[[str], PipedApi]]:
    """Return a function that starts an API process with a number of workers."""
    started: list[PipedApi] = []

    def start(workers: str) -> PipedApi:
        started.append(PipedApi(sample_url, unused_port, workers))
        return started[-1]

    yield start
    for api in started:
        api.stop()


def requests(lines: list[bytes]) -> list[bytes]:
    """Return the lines of requests."""
    return [line for line in lines if b' event=request ' in line]


def test_log_that_nobody_reads_is_dropped_and_counted(start_piped: Callable) -> None:
    api = start_piped('1')
    with Load(api.url, lambda _: '/live', clients=8) as clients:
        wait_for(lambda: clients.wait_for(500) or metric(api, 'log_lines_dropped_total') > 100)
    assert len(clients.asked) > MAX_LINES
    assert {asked.status for asked in clients.asked} == {200}
    reader = api.read()
    wait_for(lambda: len(requests(api.lines)) > MAX_LINES)
    dropped = metric(api, 'log_lines_dropped_total')
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0
    reader.join(DEADLINE_S)
    # what was not dropped is there, in whole lines, and so are a worker's last lines
    assert len(requests(api.lines)) + dropped > len(clients.asked)
    assert [line for line in api.lines if not WHOLE_LINE.fullmatch(line)] == []


def test_log_that_nobody_reads_keeps_no_process_alive(start_piped: Callable) -> None:
    api = start_piped('1')
    with Load(api.url, lambda _: '/live', clients=8) as clients:
        clients.wait_for(1000)
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0


def test_lines_of_two_workers_are_not_mixed(start_piped: Callable) -> None:
    api = start_piped('2')
    # nobody reads yet, so both workers wait in the midst of what they write
    with client_of_each_worker(api, 2) as clients:
        for number in range(800):
            client = clients[list(clients)[number % 2]]
            assert client.get('/live').status_code == 200
    reader = api.read()
    wait_for(lambda: len(requests(api.lines)) >= 800)
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(DEADLINE_S) == 0
    reader.join(DEADLINE_S)
    assert [line for line in api.lines if not WHOLE_LINE.fullmatch(line)] == []


def test_last_lines_of_a_worker_are_written(
    start_api: Callable[..., ApiProcess], sample_url: str
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_WORKERS='1')
    for number in range(50):
        api.get('/live', headers={'X-Request-ID': f'last-{number}'})
    assert api.stop() == 0
    for number in range(50):
        assert f'request_id=last-{number} ' in api.output()


def test_every_line_is_json_if_configured(
    start_api: Callable[..., ApiProcess], sample_url: str
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_LOG_FORMAT='json')
    api.get('/live', headers={'X-Request-ID': 'json-1'})
    api.stop()
    lines = [json.loads(line) for line in api.output().splitlines()]
    [line] = [line for line in lines if line.get('request_id') == 'json-1']
    assert (line['level'], line['event'], line['status']) == ('info', 'request', 200)
    # gunicorn's lines too
    assert any('Listening at' in line['event'] for line in lines)


def test_lines_below_the_level_are_not_written(
    start_api: Callable[..., ApiProcess], sample_url: str, unused_port: int
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_LOG_LEVEL='warning', API_PORT=str(unused_port))
    assert api.get('/venues/top-benefits').status_code == 200
    api.stop()
    assert api.output() == ''


def formatted(format_: str, **attributes: object) -> str:
    """Return the line of a record."""
    record = logging.makeLogRecord({'msg': 'it', 'request_id': None} | attributes)
    return LineFormatter(RENDERERS[format_]).format(record)


@pytest.mark.parametrize(
    ('value', 'written'),
    [
        ('plain', 'plain'),
        (0.5, '0.5'),
        ('two words', '"two words"'),
        ('a=b', '"a=b"'),
        ('a "b"', r'"a \"b\""'),
        ('C:\\temp', 'C:\\temp'),
        ('C:\\my temp', r'"C:\\my temp"'),
        ('one\ntwo', r'"one\ntwo"'),
        ('é ', '"é "'),
        ('', ''),
    ],
)
def test_logfmt_quotes_what_would_be_misread(value: object, written: str) -> None:
    line = formatted('logfmt', args={'value': value}, levelname='INFO', request_id='a-1')
    assert re.fullmatch(r'timestamp=\S+Z level=info event=it request_id=a-1 value=(.*)', line)
    assert line.endswith(f' value={written}')


def test_traceback_is_one_line() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        exc_info = sys.exc_info()
    in_json = json.loads(formatted('json', exc_info=exc_info))
    assert in_json['exception'].startswith('Traceback (most recent call last):\n  File ')
    in_logfmt = formatted('logfmt', exc_info=exc_info)
    assert in_logfmt.endswith(r'\nZeroDivisionError: division by zero"')
    assert '\n' not in in_logfmt
