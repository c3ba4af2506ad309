"""Runs SQL files on PostgreSQL.

    queries     loads the SQL files and their parameters
    connection  a connection with session settings and timeouts
    pool        a connection pool with one retry
    slow        a separate pool for slow queries; coalesces identical requests

Raises the exceptions of psycopg and psycopg_pool. Imports `telemetry` and `config`, not HTTP.
"""
