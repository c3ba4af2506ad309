"""The log, the metrics, and the times of a request. Imports nothing from `api`."""
