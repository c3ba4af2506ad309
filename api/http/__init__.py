"""What a request is and what an answer is: reports and pages, parameters, problems, delivery, auth.

Imports `database`, `telemetry` and `config`. It must not know SQL, nor threads and processes.
"""
