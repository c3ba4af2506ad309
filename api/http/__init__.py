"""HTTP: reports, pages, parameters, problems, authentication, caching and compression.

Imports `database`, `telemetry` and `config`. It must not know SQL, processes or the HTTP server.
"""
