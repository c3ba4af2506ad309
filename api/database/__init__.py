"""From a query's values to PostgreSQL's bytes.

    queries     the SQL files and their parameters
    connection  a connection: how values travel, how long it waits
    pool        the pool of connections, and one more try when a connection breaks
    slow        slow queries: identical requests share an answer, and few run at once

Its errors are those of psycopg and psycopg_pool. It imports `telemetry` and `config`, not HTTP.
"""
