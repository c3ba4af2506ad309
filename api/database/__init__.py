"""Runs SQL files on PostgreSQL: loads them, pools connections, coalesces identical requests.

Raises the exceptions of psycopg and psycopg_pool. Imports `telemetry` and `config`, not HTTP.
"""
