"""Why there is no connection to the database, in one line without the password."""

from typing import Any

import psycopg
from psycopg.pq import Conninfo


def in_one_line(ex: psycopg.Error) -> str:
    """Return what an exception says."""
    # of several hosts, psycopg tells the last one's reason first, and then all of them
    lines = str(ex).rpartition('All failures were:')[2].strip().splitlines()
    return '; '.join(line.strip('- \t') for line in lines)


def describe(parameters: dict[str, Any]) -> str:
    """Say which database is meant, as libpq takes it: some parameters may be its defaults."""
    options = [option for option in Conninfo.get_defaults() if option.val]
    known = {option.keyword.decode(): option.val.decode() for option in options} | parameters
    host = known.get('host') or known.get('hostaddr') or 'the default host'
    user = known.get('user')
    return f'database {known.get("dbname", user)} on {host} port {known["port"]} as {user}'
