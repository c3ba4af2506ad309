"""From a function's values to PostgreSQL's bytes: the SQL files, the sessions, the bulkhead.

Imports `telemetry` and `config`. It must not know HTTP, nor what runs it. Failures: see `errors`.
"""
