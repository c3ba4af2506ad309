"""The log: whole lines in two formats, and a blocked reader delays no request."""

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from api.telemetry.log import RENDERERS, LineFormatter
from tests.faults.load import Load
from tests.support.machine import free_port
from tests.support.service import ApiProcess, metric, settled_output
from tests.support.waiting import wait_for

WHOLE_LINE = re.compile(r'timestamp=\S+Z level=\w+ event=((?!timestamp=).)*')


@pytest.mark.slow
def test_log_that_nobody_reads_is_dropped_and_counted(sample_url: str, tmp_path: Path) -> None:
    api = ApiProcess(tmp_path, {'DATABASE_URL': sample_url, 'API_WORKERS': '2'}, is_piped=True)
    reader = psutil.Process(api.collector.pid)
    reader.suspend()
    with Load(api.url, lambda _: '/live', clients=8) as clients:
        wait_for(lambda: clients.wait_for(500) or metric(api, 'log_lines_dropped_total') > 100)
    assert {asked.status for asked in clients.asked} == {200}
    reader.resume()
    settled_output(api)
    dropped = metric(api, 'log_lines_dropped_total')
    assert api.stop() == 0
    # all other lines are there, and lines of two workers are not mixed
    lines = api.output().splitlines()
    assert len([line for line in lines if ' event=request ' in line]) + dropped > len(clients.asked)
    assert [line for line in lines if not WHOLE_LINE.fullmatch(line)] == []


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
    start_api: Callable[..., ApiProcess], sample_url: str
) -> None:
    api = start_api(DATABASE_URL=sample_url, API_LOG_LEVEL='warning', API_PORT=str(free_port()))
    assert api.get('/venues/top-benefits').status_code == 200
    api.stop()
    assert api.output() == ''


def formatted(format_: str, **attributes: object) -> str:
    """Return the line of a record."""
    record = logging.makeLogRecord({'msg': 'it'} | attributes)
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
    line = formatted('logfmt', args={'value': value}, levelname='INFO')
    assert re.fullmatch(r'timestamp=\S+Z level=info event=it value=(.*)', line)
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
