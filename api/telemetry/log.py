"""The log: one line for each event, on standard error, in logfmt or JSON.

Fields are given to `logging` as a mapping: `log.info('request', {'status': 200})`. A thread writes
the lines, so a slow or blocked reader of the log delays no request: lines that exceed the queue are
dropped and counted.
"""

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
from queue import SimpleQueue
from threading import Thread

from api.telemetry import metrics

# maximum number of queued lines per process: a busy process logs as many in a few seconds
MAX_LINES = 4096
# seconds for which lines are collected, so that one system call writes many of them
BATCH_S = 0.1
# maximum time to flush the log at exit
FLUSH_S = 1.0
# ends the thread
END = b''
NEEDS_QUOTES = re.compile(r'[\s="]')

# the id of the current request; each line that is logged meanwhile has it
request_id: ContextVar[str | None] = ContextVar('request_id', default=None)


def to_logfmt(fields: Mapping[str, object]) -> str:
    """Return name=value pairs, with quotes and escapes where a value needs them."""
    return ' '.join([f'{name}={logfmt_value(value)}' for name, value in fields.items()])


def logfmt_value(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if NEEDS_QUOTES.search(text) else text


def to_json(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, default=str)


RENDERERS = {'logfmt': to_logfmt, 'json': to_json}


class LineFormatter(logging.Formatter):
    """Formats a record as one line. `render` formats its fields."""

    def __init__(self, render: Callable[[Mapping[str, object]], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat()
        fields = {
            'timestamp': moment.replace('+00:00', 'Z'),
            'level': record.levelname.lower(),
            'event': record.getMessage(),
        }
        if id_ := request_id.get():
            fields['request_id'] = id_
        if isinstance(record.args, Mapping):
            fields |= record.args
        if record.exc_info:
            fields['exception'] = self.formatException(record.exc_info)
        return self._render(fields)


class LogHandler(logging.Handler):
    """Queues lines. A thread writes them; a forked process starts its own with the first line."""

    def __init__(self, write: Callable[[int, bytes], int]) -> None:
        super().__init__()
        self._os_write = write
        # in a pipe, only writes of at most PIPE_BUF keep the lines of several processes whole
        is_file = stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode)
        self._batch_bytes = 64 * 1024 if is_file else select.PIPE_BUF
        self._pid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or drop and count it if the queue is full."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._queue: SimpleQueue[bytes] = SimpleQueue()
            self._thread = Thread(
                target=self._write_lines, args=[self._queue, self._pid], daemon=True
            )
            self._thread.start()
        if self._queue.qsize() >= MAX_LINES:
            metrics.dropped_lines.inc()
            return
        try:
            self._queue.put(f'{self.format(record)}\n'.encode(errors='backslashreplace'))
        except Exception:  # noqa: BLE001 - as in the handlers of logging
            self.handleError(record)

    def close(self) -> None:
        """End the thread after it has written all lines, or after FLUSH_S (called at exit)."""
        if self._pid == os.getpid():
            self._queue.put(END)
            self._thread.join(FLUSH_S)
        super().close()

    def _write_lines(self, queue: SimpleQueue[bytes], pid: int) -> None:
        lines: list[bytes] = []
        while END not in lines:
            lines = [queue.get()]
            time.sleep(BATCH_S)
            if os.getpid() != pid:
                continue  # a copy of the thread in a forked process: the parent writes these lines
            lines += [queue.get() for _ in range(queue.qsize())]
            batch = b''
            for line in lines:
                if len(batch) + len(line) > self._batch_bytes:
                    self._write(batch)
                    batch = b''
                batch += line
            self._write(batch)

    def _write(self, lines: bytes) -> None:
        """Write lines to standard error, or count them as dropped."""
        while lines:
            try:
                lines = lines[self._os_write(sys.stderr.fileno(), lines) :]
            except BlockingIOError:  # another process has made the file non-blocking
                select.select([], [sys.stderr.fileno()], [])
            except OSError:  # the reader has exited, or the disk is full
                metrics.dropped_lines.inc(lines.count(b'\n'))
                return


def configure_logging(
    level: str, format_: str, write: Callable[[int, bytes], int] = os.write
) -> None:
    """Send all lines to standard error.

    Args:
        level: The least severe level that is written, such as info.
        format_: A key of RENDERERS.
        write: Writes bytes to a file descriptor and returns how many, as os.write does.
    """
    # no line has them; this saves 3 % of the CPU time of a response (Python's logging HOWTO)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = LogHandler(write)
    handler.setFormatter(LineFormatter(RENDERERS[format_]))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
