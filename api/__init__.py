"""Membership-benefits reports: SQL files served as JSON over HTTP.

`app` is the page to read first. Imports go one way, which `make lint` checks:
`__main__`, `server`, `app`, `http`, `database`, then `telemetry` and `config`.
"""

import json
from pathlib import Path

# the contract with clients, and the only place that has the version
OPENAPI = Path(__file__).with_name('openapi.json')
VERSION = json.loads(OPENAPI.read_bytes())['info']['version']
