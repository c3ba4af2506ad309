"""What is told about the service: its log, each request's id and timings, and its metrics.

Imports nothing else of the service. It must not know what a report is, where answers come from
or who runs the processes.
"""
