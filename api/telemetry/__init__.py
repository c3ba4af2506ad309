"""The log, the metrics, and the times of a request. Imports nothing else from `api`."""
