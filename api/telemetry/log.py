"""The log: one line for each thing that happens, on standard error."""

import logging
import sys

import structlog
from structlog.stdlib import ProcessorFormatter

# a warning that every request could cause is written once in this time
WARNING_INTERVAL_S = 10.0
RENDERERS = {
    'logfmt': structlog.processors.LogfmtRenderer(key_order=['timestamp', 'level', 'event']),
    'json': structlog.processors.JSONRenderer(),
}


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
    """Send all log lines to standard error.

    Args:
        level: The least severe level that is written, such as info.
        format_: A key of RENDERERS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Debounce())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt='iso', utc=True),
            ],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                RENDERERS[format_],
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
