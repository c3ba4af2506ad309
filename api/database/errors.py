"""Why there is no answer, in one line for the log that quotes no statement, value, host or user."""


class DatabaseError(Exception):
    """There is no answer."""


class OverloadedError(DatabaseError):
    """Too many requests wait already, or this one has waited for too long."""


class UnavailableError(DatabaseError):
    """The database cannot be used now."""


class TimedOutError(DatabaseError):
    """The statement was cancelled, as by the statement timeout, or not answered at all."""


class RefusedError(DatabaseError):
    """PostgreSQL refuses the statement: something is missing, not granted or of another type."""
