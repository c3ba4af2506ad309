"""What is told about the service: its log, each request's id and timings, and its metrics.

Imports nothing else of the service. It tells, and decides nothing.
"""
