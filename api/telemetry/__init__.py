"""The log, the metrics, and the times of a request. Imports only the version from `api`."""
