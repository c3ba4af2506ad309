"""Pools that tests create, on the database of the test."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from api.config import Settings
from api.database.pool import Pool
from tests.support.waiting import DEADLINE_S


def patient(url: str, **settings: object) -> Settings:
    """Return settings with long timeouts, unless they are overridden."""
    limits = {'pool_timeout_s': DEADLINE_S, 'statement_timeout_s': 2.0 * DEADLINE_S}
    return Settings(database_url=url, **limits | settings)


@contextmanager
def open_pool(settings: Settings) -> Iterator[Pool]:
    """Open a pool during a with block."""
    pool = Pool(settings, settings.pool_size)
    with closing(pool._pool):
        yield pool
