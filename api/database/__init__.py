"""From a function's values to PostgreSQL's bytes: the SQL files, the sessions, the bulkhead.

Imports `telemetry` and `config`. It must not know HTTP, nor what runs it: a command line could
use it as well. What goes wrong with an answer is one of the exceptions in `errors`.
"""
