"""The log: one line for each thing that happens, on standard error."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from api.telemetry.stderr import Stderr

access_log = logging.getLogger('api.access')

# a warning that every request could cause is written once in this time
WARNING_INTERVAL_S = 10.0
# what a record has by itself; all else was given to be logged
OF_EVERY_RECORD = logging.makeLogRecord({}).__dict__.keys()

# the id of the request that is answered now, which every line names
request_id: ContextVar[str | None] = ContextVar('request_id', default=None)

Fields = Mapping[str, object]


def to_logfmt(fields: Fields) -> str:
    """Return name=value pairs."""
    return ' '.join([f'{name}={logfmt_value(value)}' for name, value in fields.items()])


def logfmt_value(value: object) -> str:
    """Return a value in quotes if it needs them, and without line breaks."""
    if isinstance(value, (int, float)):  # as a union, twice the time
        return str(value)
    text = '' if value is None else str(value)
    if ' ' in text or '=' in text or '"' in text:
        text = text.replace('\\', '\\\\').replace('"', '\\"')
        text = f'"{text}"'
    return text.replace('\n', '\\n')


def to_json(fields: Fields) -> str:
    """Return a JSON object."""
    return json.dumps(fields, default=repr)


def answer_to_logfmt(of: Fields) -> str:
    """Return what to_logfmt does, of the fields of an answer and in half the time.

    Every request pays for it.
    """
    problem = f' problem={of["problem"]}' if 'problem' in of else ''
    return (
        f'timestamp={of["timestamp"]} level={of["level"]} event={of["event"]}'
        f' request_id={logfmt_value(of["request_id"])} method={logfmt_value(of["method"])}'
        f' route={of["route"]} status={of["status"]} bytes={of["bytes"]} total_ms={of["total_ms"]}'
        f' pool_ms={of["pool_ms"]} database_ms={of["database_ms"]}{problem}'
    )


RENDERERS = {'logfmt': to_logfmt, 'json': to_json}
ANSWER_RENDERERS = {'logfmt': answer_to_logfmt, 'json': to_json}


class LineFormatter(logging.Formatter):
    """Makes a line of a record.

    Args:
        render: Makes a line of fields.
    """

    def __init__(self, render: Callable[[Fields], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        extra = {
            name: value for name, value in record.__dict__.items() if name not in OF_EVERY_RECORD
        }
        error = {'exception': self.formatException(record.exc_info)} if record.exc_info else {}
        level, event = record.levelname.lower(), record.getMessage()
        return self._render({**beginning(level, event), **extra, **error})


def beginning(level: str, event: str) -> dict[str, object]:
    """Return the fields that every line of what happens now begins with."""
    now = datetime.now(UTC).isoformat().replace('+00:00', 'Z')
    id_ = request_id.get()
    of_request = {'request_id': id_} if id_ else {}
    return {'timestamp': now, 'level': level, 'event': event, **of_request}


class LineHandler(logging.StreamHandler):
    """Hands lines to a stream that writes them soon; only the end of the process flushes it.

    Args:
        stream: The stream.
        render_answer: Makes a line of an answer's fields.
    """

    def __init__(self, stream: TextIO, render_answer: Callable[[Fields], str]) -> None:
        super().__init__(stream)
        self._render_answer = render_answer

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line."""
        try:
            self.stream.write(self.format(record) + '\n')
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)

    def write_answer(self, fields: Fields) -> None:
        """Write the line that a record with the event request would become."""
        self.stream.write(self._render_answer({**beginning('info', 'request'), **fields}) + '\n')


class Debounce(logging.Filter):
    """Lets the same warning through once in WARNING_INTERVAL_S, with how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a line."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        last, held_back = self._written.get(message, (0.0, 0))
        if record.created - last < WARNING_INTERVAL_S:
            self._written[message] = (last, held_back + 1)
            return False
        self._written[message] = (record.created, 0)
        if held_back:
            record.held_back = held_back
        return True


def configure_logging(level: str, format_: str) -> None:
    """Send all log lines to standard error, and what else is printed there in their order.

    Args:
        level: The least severe level that is written, such as info.
        format_: A key of RENDERERS.
    """
    sys.stderr = Stderr(sys.stderr.fileno())
    handler = LineHandler(sys.stderr, ANSWER_RENDERERS[format_])
    handler.addFilter(Debounce())
    handler.setFormatter(LineFormatter(RENDERERS[format_]))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_answer(fields: Fields) -> None:
    """Log an answer; every request pays for it, and logging's records would double the price."""
    handler = next(iter(logging.root.handlers), None)
    if isinstance(handler, LineHandler):
        handler.write_answer(fields)
    else:  # another server's log
        access_log.info('request', extra=fields)


def dropped_lines() -> int:
    """Return how many lines of this process's log were not written."""
    return sys.stderr.dropped if isinstance(sys.stderr, Stderr) else 0
