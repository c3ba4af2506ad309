"""The log, the metrics, and where a request's time went. It imports nothing of the service."""
