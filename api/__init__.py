"""Membership-benefits reports: SQL files served as JSON over HTTP.

Read `app` first. `make lint` checks that each module imports only from those after it:
`__main__`, `server`, `app`, `http`, `database`, then `telemetry` and `config`.
"""

from pathlib import Path

# the contract with clients
OPENAPI = Path(__file__).with_name('openapi.json')


class StartError(Exception):
    """The service cannot start; the message says why."""
