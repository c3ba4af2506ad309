"""The log: one line for each event, on standard error, in logfmt or JSON.

Fields are given to `logging` as a mapping: `log.info('request', {'status': 200})`. A thread writes
the lines, so a log that nobody reads holds up no request: lines that do not fit in the queue are
dropped and counted.
"""

import atexit
import json
import logging
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

from api.telemetry import metrics

# lines that may wait in a process: about a second of a busy one's
MAX_LINES = 4096
# seconds in which lines are gathered, to be written at once
GATHERING_S = 0.1
NEEDS_QUOTES = re.compile(r'[\s="]')
# seconds that a process that ends waits for its last lines to be written
FLUSH_S = 1.0

# the id of the request that this thread answers; every line has it
request_id: ContextVar[str | None] = ContextVar('request_id', default=None)


def to_logfmt(fields: Mapping[str, object]) -> str:
    """Return name=value pairs, with quotes and escapes where a value needs them."""
    return ' '.join([f'{name}={logfmt_value(value)}' for name, value in fields.items()])


def logfmt_value(value: object) -> str:
    """Return a value for to_logfmt."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if NEEDS_QUOTES.search(text) else text


def to_json(fields: Mapping[str, object]) -> str:
    """Return a JSON object."""
    return json.dumps(fields, default=str)


RENDERERS = {'logfmt': to_logfmt, 'json': to_json}


class LineFormatter(logging.Formatter):
    """Makes a line of a record.

    Args:
        render: Makes a line of fields.
    """

    def __init__(self, render: Callable[[Mapping[str, object]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat()
        fields = {
            'timestamp': moment.replace('+00:00', 'Z'),
            'level': record.levelname.lower(),
            'event': record.getMessage(),
        }
        if record.request_id:
            fields['request_id'] = record.request_id
        if isinstance(record.args, Mapping):
            fields |= record.args
        if record.exc_info:
            fields['exception'] = self.formatException(record.exc_info)
        return self._render(fields)


class LogHandler(QueueHandler):
    """Queues records for a thread of the process, also of one that is forked."""

    def __init__(self) -> None:
        super().__init__(SimpleQueue())
        self.listener = self._start_listener()
        os.register_at_fork(after_in_child=self._start_in_child)

    def _start_listener(self) -> 'BatchListener':
        listener = BatchListener(self.queue, self)
        listener.start()
        return listener

    def _start_in_child(self) -> None:
        if self in logging.root.handlers:
            self.queue = SimpleQueue()  # the parent writes what is in the other one
            self.listener = self._start_listener()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a record for the queue: the listener formats it."""
        record.request_id = request_id.get()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it and count that."""
        if self.queue.qsize() < MAX_LINES:
            self.queue.put(record)
        else:
            metrics.dropped_lines.inc()

    def flush(self) -> None:
        """Wait until all lines are written, for FLUSH_S at most."""
        self.listener.enqueue_sentinel()
        self.listener._thread.join(FLUSH_S)


class BatchListener(QueueListener):
    """Writes many lines at once.

    Args:
        queue: Where records come from.
        handler: The handler that formats them.
    """

    def __init__(self, queue: SimpleQueue, handler: logging.Handler) -> None:
        super().__init__(queue)
        self._handler = handler
        self._lines: list[bytes] = []
        # what is written to a pipe in larger pieces may be mixed with the lines of other processes
        is_file = stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode)
        self._batch_bytes = 64 * 1024 if is_file else select.PIPE_BUF

    def dequeue(self, block: bool) -> logging.LogRecord | None:
        """Return the next record; None ends the thread (called by the base class)."""
        if self.queue.empty() or len(self._lines) >= MAX_LINES:
            self._write_lines()
        record = self.queue.get(block)
        if record is None:
            self._write_lines()
        elif not self._lines:
            time.sleep(GATHERING_S)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        """Format a record."""
        self._lines.append(f'{self._handler.format(record)}\n'.encode(errors='backslashreplace'))

    def _write_lines(self) -> None:
        batch = b''
        for line in self._lines:
            if len(batch) + len(line) > self._batch_bytes:
                self._write(batch)
                batch = b''
            batch += line
        self._write(batch)
        self._lines.clear()

    def _write(self, batch: bytes) -> None:
        while batch:
            try:
                batch = batch[os.write(sys.stderr.fileno(), batch) :]
            except BlockingIOError:  # another program that has the file made it so
                select.select([], [sys.stderr.fileno()], [])
            except OSError:  # the reader is gone, or the disk is full
                metrics.dropped_lines.inc(batch.count(b'\n'))
                return


def configure_logging(level: str, format_: str) -> None:
    """Send all lines to standard error.

    Args:
        level: The least severe level that is written, such as info.
        format_: A key of RENDERERS.
    """
    # what no line shows need not be found out (see "Optimization" in Python's logging HOWTO)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = LogHandler()
    handler.setFormatter(LineFormatter(RENDERERS[format_]))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    atexit.register(handler.flush)
