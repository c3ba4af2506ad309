"""Membership-benefits reports: SQL files served as JSON over HTTP.

`app` is the page to read first. Imports go one way, which `make lint` checks:
`__main__`, `server`, `app`, `http`, `database`, then `telemetry` and `config`.
"""

from pathlib import Path

VERSION = '1.2.0'
# the contract with clients, of that version
OPENAPI = Path(__file__).with_name('openapi.json')


class StartError(Exception):
    """The service cannot start; the message says why."""
