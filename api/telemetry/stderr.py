"""Standard error that nobody waits for."""

import io
import logging
import os
import select
import stat
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

log = logging.getLogger(__name__)

# lines that wait to be written in a process: about a second of the busiest one's
MAX_WAITING = 4096
# how long lines are gathered before they are written at once
GATHERING_S = 0.1
# so long the end of a process waits for that, where nobody reads
FLUSH_S = 1.0


class Stderr(io.TextIOBase):
    """A text stream that a thread writes to a file; what it cannot keep up with is dropped.

    In a process that is forked, it goes on with lines and a thread of its own. It takes no lock
    that a signal's handler, which may write too, would wait for.

    Args:
        fileno: The file's descriptor.

    Attributes:
        dropped: How many lines of this process were not written.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__()
        self._fileno = fileno
        # what processes write to a pipe in larger pieces, the system may mix within a line
        is_file = stat.S_ISREG(os.fstat(fileno).st_mode)
        self._batch_bytes = io.DEFAULT_BUFFER_SIZE * 8 if is_file else select.PIPE_BUF
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.dropped = 0
        self._lock = threading.RLock()
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Have whole lines written, soon and after those before them."""
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(text)
        else:
            self._drop(1)
        if not self._thread and not sys.is_finalizing():  # no thread would begin then
            self._start()
        return len(text)

    def flush(self) -> None:
        """Wait until all is written, or FLUSH_S are over."""
        if self._thread and not sys.is_finalizing():  # no thread runs then
            is_written = threading.Event()
            self._waiting.put(is_written)
            is_written.wait(FLUSH_S)

    def _start(self) -> None:
        with self._lock, suppress(RuntimeError):  # no thread can be had: the next line tries again
            if not self._thread:
                thread = threading.Thread(target=self._run, name='stderr', daemon=True)
                thread.start()
                self._thread = thread

    def _drop(self, lines: int) -> None:
        with self._lock:
            self.dropped += lines

    def _run(self) -> None:
        told = 0
        while True:
            waiting = [self._waiting.get()]
            time.sleep(GATHERING_S)
            waiting += [self._waiting.get() for _ in range(self._waiting.qsize())]
            is_read = self._write_all(waiting)
            dropped = self.dropped - told
            if dropped and is_read and self._waiting.qsize() < MAX_WAITING / 2:
                log.warning('%s lines of the log were dropped', dropped)
                told += dropped

    def _write_all(self, waiting: list[str | threading.Event]) -> bool:
        """Write lines, many at once, and tell who waits for that; False if nobody reads them."""
        batch, is_read = b'', True
        for one in waiting:
            line = one.encode(errors='backslashreplace') if isinstance(one, str) else b''
            if not line or len(batch) + len(line) > self._batch_bytes:
                is_read = self._write(batch)
                batch = b''
            if isinstance(one, str):
                batch += line
            else:
                one.set()
        return self._write(batch) and is_read

    def _write(self, batch: bytes) -> bool:
        """Write lines; False if nobody can read them."""
        while batch:
            try:
                batch = batch[os.write(self._fileno, batch) :]
            except BlockingIOError:  # another program that has the file made it so
                select.select([], [self._fileno], [])
            except OSError:  # the reader is gone, or the disk is full
                self._drop(batch.count(b'\n'))
                return False
        return True
